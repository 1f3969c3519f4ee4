"""The page of studies: intervals where they belong, on one axis with zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlora_ref.study import read_results
from tlora_ref.study.analysis import baseline_of, difference, outcomes
from tlora_ref.study.page import html_page, intervals

RESULTS = read_results(Path(__file__).resolve().parents[2] / "examples" / "studies" / "results")
COMPARED = [found for found in RESULTS if len(found.study["variants"]) > 1]


@pytest.mark.parametrize(
    "results", [found for found in RESULTS if len(found.study["variants"]) > 1], ids=lambda results: results.name
)
def test_intervals_lie_on_one_axis(results) -> None:
    rows, found = intervals(results), outcomes(results.runs)
    against = {id(o): baseline_of(o, found, results.study["baseline"]) for o in found}
    gaps = [difference(o, against[id(o)]) for o in found if against[id(o)] is not None and against[id(o)] is not o]
    assert [row["gap"] for row in rows] == [gap for gap in gaps if gap is not None] and rows
    # one unit of loss is as long everywhere: positions less zero, over values, are one number
    scales = [(row["mean"] - row["zero"]) / row["gap"].mean for row in rows if abs(row["gap"].mean) > 1e-3]
    assert scales and max(scales) == pytest.approx(min(scales), rel=0.2) and min(scales) > 0
    assert all(0 <= row["left"] <= row["mean"] <= row["left"] + row["width"] + 0.02 <= 100.03 for row in rows)


def test_the_page_has_every_study_and_needs_no_script() -> None:
    page = html_page(RESULTS, "<b>mine</b>")
    assert "<b>mine" not in page and "<script" not in page and "default-src 'none'" in page
    assert all(f">{results.name}</h2>" in page for results in RESULTS)
    assert page.count('class="against" role="img"') == sum(len(intervals(results)) for results in RESULTS)
