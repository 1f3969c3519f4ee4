"""The notebook that fine-tunes the shipped model and plots: executed, with its figures, as a notebook and as a page."""

from __future__ import annotations

import base64
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from examples.walkthrough import pages

for library in ("jupytext", "nbconvert", "nbclient", "ipykernel", "latex2mathml", "matplotlib"):
    pytest.importorskip(library, reason=f"{library} is not installed: the extra `pages`")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pages.write_page(pages.NOTEBOOK, tmp_path_factory.mktemp("notebook"))


def notebook(built: Path) -> Any:
    import nbformat

    found = nbformat.read(built.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(found)
    return found


def said(built: Path) -> str:
    cells = notebook(built).cells
    assert not [o for c in cells for o in c.get("outputs", ()) if o.get("name") == "stderr"]
    return "".join(o["text"] for c in cells for o in c.get("outputs", ()) if o.get("name") == "stdout")


def test_it_plots_ranks_and_losses(built: Path) -> None:
    outputs = [output for cell in notebook(built).cells for output in cell.get("outputs", ())]
    images = [output for output in outputs if "image/png" in output.get("data", ())]
    assert [output["metadata"]["image/png"]["alt"].split()[0] for output in images] == ["Ranks", "The"]
    assert all(base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG") for output in images)


def test_it_learns_the_task(built: Path) -> None:
    text = said(built)
    before, of, after = map(int, re.findall(r"exact answers: (\d+) of (\d+) before, (\d+) after", text)[0])
    assert before == 0 and of == 20 and after >= 5
    assert text.count("    before ") == text.count("    after  ") == 6


def test_the_page_has_figures_and_fetches_nothing(built: Path) -> None:
    page = built.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link[^>]*stylesheet|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,22})', page)
    assert sources == ["data:image/png;base64,"] * 2
    alts = re.findall(r'alt="([^"]*)"', page)
    assert [unescape(alt).split()[0] for alt in alts] == ["Ranks", "The"]
    assert str(Path.home()) not in page and str(pages.FOLDER) not in page
    assert {f"{pages.CHAPTERS[-1].stem}.html", "index.html"} <= set(re.findall(r'href="([^"]*)"', page))


def test_the_index_leads_to_it(tmp_path: Path) -> None:
    pages.write_index(tmp_path)
    links = re.findall(r'href="([^"]*\.html)"', (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert links == [f"{part.stem}.html" for part in (*pages.CHAPTERS, pages.NOTEBOOK)]
