"""A figure of a study's results (needs matplotlib, the extra `plot`): the same results give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.errors import ConfigError
from tlora_ref.files import write_text
from tlora_ref.study.analysis import Outcome, outcomes
from tlora_ref.study.modules import has_modules, kind_of, layer_of, ranks
from tlora_ref.study.results import Results

#: Axes of numbers, which become the abscissa where a study varies one of them.
NUMBERS = ("rank", "samples")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def drawn_from(results: Results) -> str:
    """SHA-256 of what a figure shows, which the figure holds: a figure of older runs is found out."""
    shown: Any = [[o.setting, o.lr, {str(seed): loss for seed, loss in o.test.items()}] for o in outcomes(results.runs)]
    if has_modules(results):
        shown = [[run["task"], run["seed"], run["rank_by_module"]] for run in results.runs]
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def alternative(results: Results) -> str:
    """What the figure shows, in words, for who cannot see it."""
    if has_modules(results):
        return "Mean rank of every kind of module in every layer, a panel a task"
    best = sorted(outcomes(results.runs), key=lambda outcome: outcome.mean)
    said = [f"{label} {outcome.mean:.3f}" for label, outcome in zip(labels(best), best, strict=True)]
    return f"Test loss of each setting, a dot a seed and a bar at the mean, least first: {'; '.join(said)}"


def draw(results: Results, file: Path) -> None:
    """Write the figure of a study as SVG.

    Raises
    ------
    ConfigError
        without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a figure needs matplotlib: pip install 'tlora-ref[plot]'") from error
    with matplotlib.rc_context({"svg.hashsalt": "tlora-ref", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(layout="constrained")
        found = outcomes(results.runs)
        axis = next((name for name in NUMBERS if len({o.setting[name] for o in found}) > 1), None)
        if has_modules(results):
            _rank_map(figure, results)
        elif axis is not None:
            _curves(figure, found, axis)
        else:
            _dots(figure, found)
        figure.suptitle(results.name, fontsize=10)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Description": drawn_from(results)})
    write_text(file, text.getvalue())


def labels(found: Sequence[Outcome]) -> list[str]:
    """A setting's name: its variant, and what else varies."""
    names = ("task", "calibrated_on", "equal", "rank", "samples")
    varying = [name for name in names if len({outcome.setting[name] for outcome in found}) > 1]
    said = {"calibrated_on": "A of ", "equal": "equal ", "rank": "rank ", "samples": "samples "}
    return [", ".join([o.setting["variant"], *(f"{said.get(n, '')}{o.setting[n]}" for n in varying)]) for o in found]


def _dots(figure: Any, found: Sequence[Outcome]) -> None:
    """A row a setting: a dot a seed, a bar at the mean; a panel a task, whose losses are not one scale."""
    tasks = list(dict.fromkeys(outcome.setting["task"] for outcome in found))
    its = [[outcome for outcome in found if outcome.setting["task"] == task] for task in tasks]
    figure.set_size_inches(7.0, 0.9 + sum(0.5 + 0.25 * len(group) for group in its))
    panels = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=[1 + len(group) for group in its])[:, 0]
    for panel, task, group in zip(panels, tasks, its, strict=True):
        for row, outcome in enumerate(group):
            losses = list(outcome.test.values())
            panel.plot(losses, [row] * len(losses), "o", color=COLOURS[0], alpha=0.45, markersize=4)
            panel.plot(outcome.mean, row, "|", color=COLOURS[1], markersize=12, markeredgewidth=2)
        panel.set_yticks(range(len(group)), labels(group))
        panel.set_ylim(len(group) - 0.5, -0.5)
        panel.grid(axis="x", color="#dddddd")
        panel.set_title(task if len(tasks) > 1 else "", fontsize=9)
    panels[-1].set_xlabel("test loss, nats a token (dots: seeds; bars: means)")


def _curves(figure: Any, found: Sequence[Outcome], axis: str) -> None:
    """Mean test loss against a number, a line a variant, the seeds as dots."""
    figure.set_size_inches(6.0, 3.6)
    panel = figure.subplots()
    for colour, variant in zip(COLOURS, dict.fromkeys(o.setting["variant"] for o in found), strict=False):
        its = sorted((o for o in found if o.setting["variant"] == variant), key=lambda o: o.setting[axis])
        panel.plot([o.setting[axis] for o in its], [o.mean for o in its], "-", color=colour, label=variant)
        for outcome in its:
            losses = list(outcome.test.values())
            panel.plot([outcome.setting[axis]] * len(losses), losses, "o", color=colour, alpha=0.45, markersize=4)
    ticks = sorted({outcome.setting[axis] for outcome in found})
    panel.set_xscale("log", base=2)
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.set_xlabel({"rank": "r_init", "samples": "calibration samples"}[axis])
    panel.set_ylabel("test loss, nats a token")
    panel.grid(color="#dddddd")
    panel.legend()


def _rank_map(figure: Any, results: Results) -> None:
    """Layers down, kinds across, the mean rank in each square; a panel a task."""
    tasks = list(dict.fromkeys(run["task"] for run in results.runs))
    found = [ranks(results.runs, task) for task in tasks]
    kinds, layers = (list(dict.fromkeys(map(of, found[0]))) for of in (kind_of, layer_of))
    figure.set_size_inches(1.0 + 3.6 * len(tasks), 1.2 + 0.35 * len(layers))
    most = max(max(its.values()) for its in found)
    for panel, task, its in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, found, strict=True):
        grid = np.full((len(layers), len(kinds)), np.nan)
        for module, rank in its.items():
            grid[layers.index(layer_of(module)), kinds.index(kind_of(module))] = rank
        panel.imshow(grid, cmap="Blues", vmin=0, vmax=1.3 * most, aspect="auto")
        for (row, column), rank in np.ndenumerate(grid):
            panel.text(column, row, "" if np.isnan(rank) else f"{rank:.1f}", ha="center", va="center", fontsize=7)
        panel.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right")
        panel.set_yticks(range(len(layers)), layers)
        panel.set_ylabel("layer")
        panel.set_title(f"{task}: mean rank", fontsize=9)
