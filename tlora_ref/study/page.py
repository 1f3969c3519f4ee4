"""The studies of a folder as one page: quality with the intervals drawn, cost, what diverged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlora_ref.pages import render
from tlora_ref.provenance import provenance
from tlora_ref.study.analysis import Difference, baseline_of, difference, outcomes
from tlora_ref.study.results import Results
from tlora_ref.study.tables import LEGEND, cost, diverged, heading, names, paper_said, quality

TEMPLATE = Path(__file__).with_name("results.html")


def html_page(found: Sequence[Results], title: str) -> str:
    """The page's text; every text that comes from the files is escaped."""
    return render(
        TEMPLATE,
        title=title,
        studies=[_study(results) for results in found],
        legend=LEGEND,
        made_by=provenance()["tlora_ref"],
    )


def _study(results: Results) -> dict[str, Any]:
    return {
        "name": results.name,
        "heading": heading(results),
        "baseline": str(results.study["baseline"]),
        "quality": quality(results) if results.runs else None,
        "cost": cost(results) if results.runs else None,
        "intervals": intervals(results),
        "paper": paper_said(results),
        "diverged": diverged(results),
    }


def intervals(results: Results) -> list[dict[str, Any]]:
    """Every setting's difference from the baseline, and where its interval is drawn, in percent of a common axis."""
    found, baseline = outcomes(results.runs), str(results.study["baseline"])
    gaps: list[tuple[str, Difference]] = []
    for outcome, name in zip(found, names(found), strict=True):
        against = baseline_of(outcome, found, baseline)
        gap = None if against is None or against is outcome else difference(outcome, against)
        if gap is not None:
            gaps.append((name, gap))
    least = min((min(gap.low, gap.mean, 0.0) for _, gap in gaps), default=0.0)
    most = max((max(gap.high, gap.mean, 0.0) for _, gap in gaps), default=0.0)
    width = most - least or 1.0

    def at(value: float) -> float:
        return round(100 * (value - least) / width, 2)

    return [
        {"name": name, "gap": gap, "left": at(gap.low), "width": at(gap.high) - at(gap.low), "mean": at(gap.mean),
         "zero": at(0.0)}
        for name, gap in gaps
    ]  # fmt: skip
