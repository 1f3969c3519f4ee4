"""The losses of a run: in words, and as lines to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tlora_ref.reports.summary import Summary

#: Points of a drawn line; a longer run is drawn by the means of as many parts.
POINTS = 400

#: Steps and losses.
Line = list[tuple[int, float]]


def losses_said(summary: Summary) -> list[str]:
    """The losses of a run in a line each: training, held-out, which step's weights were kept, and of a
    run that was stopped how to go on."""
    left = summary.unfinished.lines() if summary.unfinished is not None else []
    if not summary.losses:
        return left
    first, last = summary.losses[0], summary.losses[-1]
    lines = [f"training loss: {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}"]
    held_out = [entry for entry in summary.losses if "valid_loss" in entry]
    if held_out:
        best = min(held_out, key=lambda entry: entry["valid_loss"])
        said = f"held-out loss: {held_out[-1]['valid_loss']:.4f} at step {held_out[-1]['step']}"
        lines.append(f"{said}, the least {best['valid_loss']:.4f} at step {best['step']}")
    if summary.kept is not None:
        lines.append(f"kept: the weights of step {summary.kept} of {last['step']}")
    return [*lines, *left]


def loss_lines(losses: Sequence[Mapping[str, Any]]) -> dict[str, Line]:
    """{"training": line, "held-out": line}, each of at most POINTS points; a line without any is left out."""
    lines = {
        "training": [(entry["step"], float(entry["loss"])) for entry in losses],
        "held-out": [(entry["step"], float(entry["valid_loss"])) for entry in losses if "valid_loss" in entry],
    }
    return {name: _thinned(line) for name, line in lines.items() if line}


def thinned(losses: Sequence[Mapping[str, Any]]) -> int:
    """How many steps a drawn point of the training loss is the mean of."""
    return max(1, math.ceil(len(losses) / POINTS))


def _thinned(line: Line) -> Line:
    """Means of parts of equal length, each at its last step."""
    size = max(1, math.ceil(len(line) / POINTS))
    parts = [line[at : at + size] for at in range(0, len(line), size)]
    return [(part[-1][0], math.fsum(loss for _, loss in part) / len(part)) for part in parts]
