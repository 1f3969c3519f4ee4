"""`tlora-ref study`: a grid of runs, each kept as it ends, and what they say."""

from __future__ import annotations

import sys
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
from tlora_ref.study import Study, work_of
from tlora_ref.study.tables import to_dict


def run(
    file: Annotated[Path, typer.Argument(help="The study, a YAML file (see tlora_ref/study/README.md).")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results, several studies' too.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that run cells side by side.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their cost, and run nothing.")] = False,
    json: o.Json = False,
) -> None:
    """Compare variants fairly: run every cell of a grid, or go on where a stopped study was."""
    screen, study = Screen(json), tr.load_study(file)
    if dry_run:
        show_work(screen, study, out)
        return
    if out is None:
        raise ConfigError("--out is missing: the folder for the results (or list the runs alone: --dry-run)")
    try:
        with processes(workers) as executor, screen.progress(study.name) as move:
            results = tr.run_study(study, out, executor=executor, progress=move)
    except KeyboardInterrupt as stop:
        what, status = told(stop)
        print(f"stopped by {what}: the runs that had ended are in {out}; the same command goes on", file=sys.stderr)
        raise typer.Exit(status) from None
    show_results(screen, results)
    screen.finish(to_dict(results))


def show_work(screen: Screen, study: Study, out: Path | None) -> None:
    """Every cell, which of them are there, and about what the others take."""
    work = work_of(study, out)
    columns = ("variant", "equal", "rank", "samples", "lr", "seed", "task", "")
    rows = [
        (c.variant, c.equal, str(c.rank), str(c.samples), f"{c.lr:g}", str(c.seed), f"{c.model}/{c.task}", state)
        for c, state in work.states()
    ]
    screen.table(f"{study.name}: {study.title}", columns, rows)
    basis = "by the runs that are there" if work.measured else "by counting operations: small models take longer"
    screen.say(
        f"{len(work.cells)} cells, {len(work.todo)} runs to make, each of {study.steps} steps of {study.batch_size}: "
        f"about {seconds(work.seconds)} one after the other ({basis})"
    )
    screen.finish({"cells": len(work.cells), "runs": len(work.todo), "seconds": work.seconds})
