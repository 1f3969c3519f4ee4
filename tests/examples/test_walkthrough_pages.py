"""The walkthrough as pages: rebuilt from a run, with the run's numbers, equations that are set, nothing to fetch."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from examples.walkthrough import pages
from tests.pages.browsing import check_readable, press

for library in ("jupytext", "nbconvert", "nbclient", "ipykernel", "latex2mathml"):
    pytest.importorskip(library, reason=f"{library} is not installed: the extra `pages`")

CHAPTER = next(chapter for chapter in pages.CHAPTERS if chapter.stem.startswith("06"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pages.write_page(CHAPTER, tmp_path_factory.mktemp("pages"))


def test_the_page_has_the_runs_numbers(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(pages.FOLDER))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(CHAPTER), run_name="__main__")
    shown = unescape(re.sub(r"<[^>]*>", "", built.read_text(encoding="utf-8")))
    lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
    assert len(lines) > 10 and [line for line in lines if line not in shown] == []


def test_it_fetches_nothing_and_its_equations_are_set(built: Path) -> None:
    page = built.read_text(encoding="utf-8")
    assert not re.search(r'<script|<link[^>]*stylesheet|@import|url\(|src="', page)
    prose = pages.VERBATIM.sub("", page)
    assert "<math" in prose and "$" not in prose and "\\" not in prose
    assert "<h1>" in prose and 'class="highlight' in page
    assert set(re.findall(r'href="([^"]*)"', page)) >= {"index.html", "data:,", f"{CHAPTER.stem}.ipynb"}


def test_a_notebook_with_outputs_stands_beside_it(built: Path) -> None:
    notebook = json.loads(built.with_suffix(".ipynb").read_text(encoding="utf-8"))
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    assert kinds[0] == "markdown" and "code" in kinds
    assert any(cell.get("outputs") for cell in notebook["cells"])
    assert str(pages.FOLDER) not in json.dumps(notebook)


@pytest.mark.parametrize("chapter", pages.CHAPTERS, ids=lambda path: path.stem)
def test_every_equation_of_the_text_is_known(chapter: Path) -> None:
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)*)", chapter.read_text(encoding="utf-8"), flags=re.MULTILINE)
    prose = re.sub(r"^# ?", "", "".join(cells), flags=re.MULTILINE)
    equations = pages.EQUATION.findall(re.sub(r"`[^`]*`", "", prose))
    assert equations
    for display, inline in equations:
        made = pages.typeset(f"$${display}$$" if display else f"${inline}$")
        assert made.startswith('<span class="scroll"' if display else "<math") and "<math" in made
        assert "\\" not in made and "$" not in made


def test_code_is_not_taken_for_an_equation() -> None:
    body = "<p>$a_1$</p><pre>cost $5 and $6</pre><code>$x$</code>"
    made = pages.typeset(body)
    assert made.endswith("<pre>cost $5 and $6</pre><code>$x$</code>") and "<msub>" in made


def test_a_chapter_whose_text_is_wrong_is_not_built(tmp_path: Path) -> None:
    from nbclient.exceptions import CellExecutionError

    wrong = tmp_path / "01_wrong.py"
    wrong.write_text('# %% [markdown]\n# # 1. Wrong\n\n# %%\nfrom walk import stated\n\nstated("0.9", 0.5)\n', "utf-8")
    with pytest.raises(CellExecutionError, match=r"the text says 0\.9, this run 0\.5"):
        pages.executed(wrong)


def test_a_chapter_that_is_not_there_is_said(tmp_path: Path) -> None:
    command = [sys.executable, str(pages.FOLDER / "pages.py"), "--out", str(tmp_path / "out"), "--chapter", "10"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "from 1 to 9" in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.browser
def test_what_is_too_wide_for_a_phone_scrolls_by_the_keyboard(browser: Any, tmp_path: Path) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    waiting = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
    wide = " + ".join(f"a_{{{i}}} b_{{{i}}}" for i in range(30))
    table = f"<table><tr>{''.join(f'<td>{10**8 + i}</td>' for i in range(12))}</tr></table>"
    body = pages.typeset(f"<h1>Wide</h1><p>Inline $a_1$.</p><p>$${wide}$$</p>{table}<p>$$a = b$$</p>")
    page = tmp_path / "page.html"
    page.write_text(pages.template().render(title="Wide", body=Markup(body)), encoding="utf-8")
    check_readable(browser, page, 400, "light")
    kinds = "return [...document.querySelectorAll('.scroll')].map((e) => [e.ariaLabel, e.scrollWidth > e.clientWidth])"
    wideness = browser.execute_script(kinds)
    assert [[label.partition(",")[0], wide] for label, wide in wideness] == [
        ["equation", True], ["table", True], ["equation", False],
    ]  # fmt: skip
    for label in ("equation", "table"):
        press(browser, keys.TAB)
        focused = browser.switch_to.active_element
        assert focused.get_attribute("aria-label").startswith(label)
        press(browser, *[keys.ARROW_RIGHT] * 3)
        waiting(browser, 5).until(lambda _, e=focused: browser.execute_script("return arguments[0].scrollLeft", e))
