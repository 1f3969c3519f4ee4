"""`tlora-ref study`: a grid of runs, each kept as it ends, and what they say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.calibration import processes
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen, seconds
from tlora_ref.cli.stopping import told
from tlora_ref.cli.studies import show_results
from tlora_ref.errors import ConfigError
from tlora_ref.study import Study, works_of
from tlora_ref.study.tables import to_dict


def run(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Studies, YAML files (see tlora_ref/study/README.md).")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the results, several studies' too.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that run cells side by side.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their cost, and run nothing.")] = False,
    json: o.Json = False,
) -> None:
    """Compare variants fairly: run a grid of runs, or go on with it."""
    screen, studies = Screen(json), load_studies(files)
    if dry_run:
        show_work(screen, studies, out)
        return
    if out is None:
        raise ConfigError("--out is missing: the folder for the results (or list the runs alone: --dry-run)")
    found = []
    try:
        with processes(workers) as executor:
            for study in studies:
                with screen.progress(study.name) as move:
                    found.append(tr.run_study(study, out, executor=executor, progress=move))
    except KeyboardInterrupt as stop:
        what, status = told(stop)
        print(f"stopped by {what}: the runs that had ended are in {out}; the same command goes on", file=sys.stderr)
        raise typer.Exit(status) from None
    for results in found:
        show_results(screen, results)
    screen.finish({"studies": [to_dict(results) for results in found]})


def load_studies(files: Sequence[Path]) -> list[Study]:
    """Every file's study; ConfigError for two of one name, whose results would be one file."""
    studies = [tr.load_study(file) for file in files]
    names = [study.name for study in studies]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'two studies are named "{name}", which names the file of results: give one another name')
    return studies


def show_work(screen: Screen, studies: Sequence[Study], out: Path | None) -> None:
    """Every cell, which of them are there, and about what the others take; a run of two studies is counted once."""
    columns = ("variant", "equal", "rank", "samples", "lr", "seed", "task", "")
    works, runs, took = works_of(studies, out)
    for study, work in zip(studies, works, strict=True):
        rows = [
            (c.variant, c.equal, str(c.rank), str(c.samples), f"{c.lr:g}", str(c.seed), f"{c.model}/{c.task}", state)
            for c, state in work.states()
        ]
        screen.table(f"{study.name}: {study.title}", columns, rows)
        basis = "by the runs that are there" if work.measured else "by a part of a training step, made here"
        screen.say(
            f"{len(work.cells)} cells, {len(work.todo)} runs to make, each of {study.steps} steps of "
            f"{study.batch_size}: about {seconds(work.seconds)} one after the other ({basis})"
        )
    if len(works) > 1:
        screen.say(f"all: {runs} runs, about {seconds(took)} one after the other")
    told = [
        {"study": study.name, "cells": len(work.cells), "runs": len(work.todo), "seconds": work.seconds}
        for study, work in zip(studies, works, strict=True)
    ]
    screen.finish({"studies": told, "runs": runs, "seconds": took})
