"""`explain`: a page of one's own model, as a user makes it, and what a user gets wrong."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

FEW = ("--rank", 2, "--samples", 3, "--steps", 2, "--batch-size", 2)


def test_a_page_is_written(folder: Path, run: Run) -> None:
    page = folder / "page.html"
    status, out, err = run("explain", folder / "model", "--data", folder / "data", "--out", page, *FEW)
    assert status == 0, err
    text = page.read_text(encoding="utf-8")
    assert "<h1>TLoRA, line by line, on model</h1>" in text and "def sample_sensitivity" in text
    assert out.rstrip().endswith(f"wrote {page}: open it in a browser") and "theory 1.000" in out

    status, out, err = run("explain", folder / "model", "--data", folder / "data", "--out", page, *FEW)
    assert status == 2 and not out and "already exists" in err and "--overwrite" in err
    more = (*FEW, "--overwrite", "--json", "--dtype", "float64", "--profile", "released")
    status, out, _ = run("explain", folder / "model", "--data", folder / "data", "--out", page, *more)
    values = json.loads(out)
    assert status == 0 and values["modules"] == 14 and 0 <= values["ahead"] <= 14
    assert abs(values["mean_share"]["theory"] - 1.0) < 1e-9 and "profile\nreleased" in page.read_text(encoding="utf-8")


def test_bad_input_gets_a_line(folder: Path, run: Run) -> None:
    for words, said in (
        (("--out", folder / "page"), "ends in .html"),
        (("--out", folder / "no" / "page.html"), "does not exist"),
        (("--out", folder / "p.html", "--samples", 99), "99 samples were asked for"),
        (("--out", folder / "p.html", "--profile", "papr"), "papr"),
    ):
        status, _, err = run("explain", folder / "model", "--data", folder / "data", *words)
        assert status == 2 and said in err, err
    assert not list(folder.glob("*.html"))
