"""`check`: a Python implementation, run over generated cases of every stage it has."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen
from tlora_ref.cli.user_code import loaded
from tlora_ref.cli.verdicts import finish_checks, show_checks
from tlora_ref.oracle.reports.files import check_report_file


def run(
    target: Annotated[
        str,
        typer.Argument(help="pkg.module:name, or file.py:name; without a name, the module itself.", show_default=False),
    ],
    config: o.Config = None,
    profile: o.Profile = "paper",
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, tf32, bfloat16 or float16; by default what its attribute `dtype` says."),
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Check this stage alone; may be repeated.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="ID=REASON: this check is expected to fail; may be repeated.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Cases a check.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the cases.", min=0)] = 0,
    report: o.Report = None,
    json: o.Json = False,
) -> None:
    """Check a Python implementation of the stages on many cases.

    The cases are generated. The exit status is 1 if it is wrong.
    """
    screen = Screen(json)
    check_report_file(report)
    silent = redirect_stdout(sys.stderr)  # what the candidate prints is no part of the report
    with silent:
        implementation = loaded(target)
    with screen.progress("checks", lines=False) as advance, silent:
        found = tr.check_implementation(
            implementation,
            profile=profile,
            dtype=dtype,
            expected_failures=o.pairs("--expect", expect),
            stages=stage or None,
            examples=examples,
            seed=seed,
            progress=advance,
        )
    show_checks(screen, found, report)
    finish_checks(screen, found)
