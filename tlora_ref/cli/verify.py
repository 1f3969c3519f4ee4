"""`verify`: a candidate's trace, or its adapter, against a golden trace; or its outputs on vectors, against those."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen
from tlora_ref.cli.verdicts import finish_checks, show_checks, show_findings
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.kit.vectors import CASES, compare_vectors
from tlora_ref.oracle.reports.files import check_report_file

Checkpoint = Annotated[
    Path | None, typer.Option(help="The model's folder: stages that need weights are judged by own inputs.")
]
JudgedAs = Annotated[
    str | None, typer.Option(help="Judge the candidate as float64, float32, tf32, bfloat16 or float16.")
]
Tolerance = Annotated[
    list[str] | None, typer.Option(help="STAGE=FACTOR widens the bounds of a stage; may be repeated.")
]
Require = Annotated[
    list[str] | None,
    typer.Option(help="STAGE or all: exit with 1 unless it was judged in full; may be repeated."),
]
SameRun = Annotated[
    bool,
    typer.Option("--same-run", help="It was trained on the golden samples, by the golden settings: judge B so."),
]


def run(
    golden: Annotated[Path, typer.Argument(help="Folder of the golden trace, or of vectors.", show_default=False)],
    candidate: Annotated[
        Path,
        typer.Argument(help="Folder of a trace, a PEFT adapter, a merged model, or outputs.", show_default=False),
    ],
    config: o.Config = None,
    checkpoint: Checkpoint = None,
    dtype: JudgedAs = None,
    tolerance: Tolerance = None,
    require: Require = None,
    same_run: SameRun = False,
    report: o.Report = None,
    json: o.Json = False,
) -> None:
    """Hold a candidate against a golden trace, stage by stage.

    The exit status is 1 if it is wrong.
    """
    screen = Screen(json)
    check_report_file(report)
    if (golden / CASES).is_file():
        if checkpoint is not None or tolerance or require or same_run:
            raise ConfigError(
                f"{golden} holds vectors: they take no --checkpoint, --tolerance, --require or --same-run"
            )
        checks = compare_vectors(golden, candidate, dtype=dtype)
        show_checks(screen, checks, report)
        return finish_checks(screen, checks)
    options = {"checkpoint": checkpoint, "dtype": dtype, "require": require or (), "same_run": same_run}
    found = tr.compare(golden, candidate, tolerances=factors(tolerance), **options)  # type: ignore[arg-type]
    show_findings(screen, found, report)
    screen.finish(found.to_dict())
    if not found.passed:
        raise typer.Exit(1)


def factors(tolerance: list[str] | None) -> dict[str, float]:
    """--tolerance STAGE=FACTOR, as numbers."""
    found = {}
    for stage, text in o.pairs("--tolerance", tolerance).items():
        try:
            found[stage] = float(text)
        except ValueError:
            raise ConfigError(f"--tolerance {stage}={text}: expected a number after the equals sign") from None
    return found
