"""A study's results as tables for a person: cells as text, ready to be printed or set on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tlora_ref.study.analysis import SETTING, Difference, Outcome, baseline_of, difference, outcomes
from tlora_ref.study.results import Results

#: Columns, and rows of as many cells.
Table = tuple[list[str], list[list[str]]]

#: Of `Outcome.measures`, with their columns' names.
MEASURES = {
    "gradient_norm.first": "first gradient norm",
    "gradient_norm.largest": "largest",
    "phi": "phi",
    "phi_draw": "phi of another draw",
}

#: What the columns are, for under a table.
LEGEND = (
    "test loss: nats a scored token, mean over the seeds +- standard deviation, at the learning rate of least mean "
    "validation loss (! it is the smallest or largest tried). Against the baseline: the mean paired difference, its "
    "95% bootstrap interval (BCa), and how many seeds would show a difference of this size and spread."
)


def quality(results: Results) -> Table:
    """A row a setting: test loss, and the paired difference from the baseline, beside the paper's figure."""
    found, baseline = outcomes(results.runs), str(results.study["baseline"])
    paper = (results.study.get("paper") or {}).get("values") or {}
    varying = _varying(found)
    columns = [*varying, "trained", "lr", "test loss", f"less {baseline}'s", "95% interval", "", "seeds needed"]
    columns[-2] = "verdict"
    rows = []
    for outcome in found:
        against = baseline_of(outcome, found, baseline)
        gap = None if against is None or against is outcome else difference(outcome, against)
        rows.append(
            [
                *(str(outcome.setting[name]) for name in varying),
                f"{outcome.trained:,.0f}",
                f"{outcome.lr:g}{'!' * outcome.at_edge}",
                loss_said(outcome),
                *difference_said(gap),
                *([_figure(paper.get(outcome.setting["variant"]))] if paper else []),
            ]
        )
    return ([*columns, "paper"] if paper else columns), rows


def cost(results: Results) -> Table:
    """A row a setting: time, memory, gradient norm, phi."""
    found = outcomes(results.runs)
    varying = _varying(found)
    rows = [
        [
            *(str(outcome.setting[name]) for name in varying),
            f"{outcome.r_init:.1f}",
            f"{len(outcome.test)}",
            f"{outcome.seconds:.1f}",
            f"{outcome.peak_bytes / 1e6:.0f}",
            *(_measure(outcome, name) for name in MEASURES),
        ]
        for outcome in found
    ]
    return [*varying, "r_init", "seeds", "seconds a run", "peak MB", *MEASURES.values()], rows


def measures(results: Results) -> Table | None:
    """A row a setting: whatever else was measured, means over the seeds; None where nothing was."""
    found = outcomes(results.runs)
    names = list(dict.fromkeys(name for outcome in found for name in outcome.measures))
    if not names:
        return None
    varying = _varying(found)
    rows = [
        [
            *(str(outcome.setting[name]) for name in varying),
            *(f"{outcome.measures[name]:.3g}" if name in outcome.measures else "" for name in names),
        ]
        for outcome in found
    ]
    return [*varying, *names], rows


def _measure(outcome: Outcome, name: str) -> str:
    value = outcome.measures.get(name)
    return "" if value is None else f"{value:.3g}"


def loss_said(outcome: Outcome) -> str:
    """Mean and standard deviation of the test loss."""
    return f"{outcome.mean:.4f}" + ("" if math.isnan(outcome.spread) else f" +- {outcome.spread:.4f}")


def difference_said(gap: Difference | None) -> list[str]:
    """The mean, the interval, the verdict and the seeds needed; blanks where nothing can be compared."""
    if gap is None:
        return ["", "", "", ""]
    needed = "" if gap.seeds_needed is None else f"{gap.seeds_needed:,}"
    return [f"{gap.mean:+.4f}", f"{gap.low:+.4f} to {gap.high:+.4f}", gap.verdict, needed]


def heading(results: Results) -> str:
    """What the study is, and how much of it is there."""
    study = results.study
    runs = f"{len(results.runs)} of {results.cells} runs" + ("" if results.complete else ": not complete")
    return f"{results.name}: {study['title'] or 'a study'}; {runs}, {study['steps']} steps of {study['batch_size']}"


def diverged(results: Results) -> list[str]:
    """A line for each run whose numbers were not finite."""
    return [
        f"{run['variant']}, lr {run['lr']:g}, seed {run['seed']}: {run['error']}"
        for run in results.runs
        if run["valid_loss"] is None
    ]


def paper_said(results: Results) -> str:
    """What the paper's column is; nothing where there is none."""
    paper = results.study.get("paper") or {}
    if not paper.get("values"):
        return ""
    return f"paper: {paper.get('table', '')}, {paper.get('measure', '')}: compare orders, not values"


def to_dict(results: Results) -> dict[str, Any]:
    """Outcomes and differences as JSON values."""
    found, baseline = outcomes(results.runs), str(results.study["baseline"])
    rows = []
    for outcome in found:
        against = baseline_of(outcome, found, baseline)
        gap = None if against is None or against is outcome else difference(outcome, against)
        facts = {"lr": outcome.lr, "at_edge": outcome.at_edge, "trained": outcome.trained, "r_init": outcome.r_init}
        losses = {"test_loss": outcome.mean, "by_seed": {str(seed): loss for seed, loss in outcome.test.items()}}
        costs = {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes, **outcome.measures}
        rows.append(
            {**outcome.setting, **facts, **losses, **costs, "difference": None if gap is None else gap.to_dict()}
        )
    return {"study": results.study, "runs": len(results.runs), "cells": results.cells, "outcomes": rows}


def _varying(found: Sequence[Outcome]) -> list[str]:
    """The axes that tell the settings apart, the variant always and first."""
    return ["variant"] + [
        name for name in SETTING if name != "variant" and len({outcome.setting[name] for outcome in found}) > 1
    ]


def names(found: Sequence[Outcome]) -> list[str]:
    """A name for each setting, of what tells it apart."""
    varying = _varying(found)
    return [", ".join(str(outcome.setting[name]) for name in varying) for outcome in found]


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"
