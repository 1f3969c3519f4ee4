"""`tlora-ref report`: what a folder that the other commands left says, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen
from tlora_ref.cli.studies import show_results
from tlora_ref.reports import by_kind, by_layer
from tlora_ref.study import holds_results, read_results
from tlora_ref.study.tables import to_dict


def run(
    folder: Annotated[
        Path, typer.Argument(help="What train, init, trace or study wrote, or any PEFT adapter.", show_default=False)
    ],
    json: o.Json = False,
) -> None:
    """Say what a run, an adapter, a trace or a study holds: budget, ranks by layer, scales, updates, losses."""
    screen = Screen(json)
    if folder.is_dir() and holds_results(folder):
        show_studies(screen, folder)
        return
    summary = tr.summarize(folder)
    screen.say(f"{folder}: {summary.kind}")
    screen.say("; ".join(f"{name} {value}" for name, value in summary.said.items()))
    screen.table("Rank by layer", *by_layer({name: str(module.rank) for name, module in summary.modules.items()}))
    screen.table("By kind of module", *by_kind(summary.modules))
    for line in losses_said(summary.losses):
        screen.say(line)
    screen.finish(summary.to_dict())


def show_studies(screen: Screen, folder: Path) -> None:
    """Every study that was run into the folder."""
    found = read_results(folder)
    for results in found:
        show_results(screen, results)
    screen.finish({"studies": [to_dict(results) for results in found]})


def losses_said(losses: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses of a run in two lines."""
    if not losses:
        return []
    first, last = losses[0], losses[-1]
    lines = [f"training loss: {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}"]
    held_out = [entry for entry in losses if "valid_loss" in entry]
    if held_out:
        best = min(held_out, key=lambda entry: entry["valid_loss"])
        said = f"held-out loss: {held_out[-1]['valid_loss']:.4f} at step {held_out[-1]['step']}"
        lines.append(f"{said}, the least {best['valid_loss']:.4f} at step {best['step']}")
    return lines
