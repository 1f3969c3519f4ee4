"""`verify`: a candidate's trace, or its adapter, against a golden trace; or its outputs on vectors, against those."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import checking
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.kit.vectors import CASES, compare_vectors
from tlora_ref.oracle.report import CASCADE, FAIL, SKIP, Report

#: Lines of single findings that are printed before the rest is only counted.
SHOWN = 12


def verify(
    golden: Annotated[Path, typer.Argument(help="Folder of the golden trace, or of vectors.", show_default=False)],
    candidate: Annotated[
        Path, typer.Argument(help="Folder of a trace, of a PEFT adapter, or of outputs.", show_default=False)
    ],
    config: o.Config = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The model's folder: stages that need weights are judged by own inputs.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Judge the candidate as float64, float32, tf32, bfloat16 or float16.")
    ] = None,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="STAGE=FACTOR widens the bounds of a stage; may be repeated.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Hold a candidate against a golden trace, stage by stage: exit status 1 if it is wrong."""
    screen = Screen(json)
    if (golden / CASES).is_file():
        if checkpoint is not None or tolerance:
            raise ConfigError(f"{golden} holds vectors: they need no --checkpoint and take no --tolerance")
        found = compare_vectors(golden, candidate, dtype=dtype)
        checking.show(screen, found)
        return checking.finish(screen, found)
    factors = {}
    for stage, text in o.pairs("--tolerance", tolerance).items():
        try:
            factors[stage] = float(text)
        except ValueError:
            raise ConfigError(f"--tolerance {stage}={text}: expected a number after the equals sign") from None
    report = tr.compare(golden, candidate, checkpoint=checkpoint, dtype=dtype, tolerances=factors)
    show(screen, report)
    screen.finish(report.to_dict())
    if not report.passed:
        raise typer.Exit(1)


def show(screen: Screen, report: Report) -> None:
    """The table of stages, what is wrong, and the verdict."""
    screen.table("Stages", ("stage", "paper", "result", "checks", "worst"), report.rows())
    wrong = report.of(FAIL)
    for finding in wrong[:SHOWN]:
        screen.say(finding.line())
    if len(wrong) > SHOWN:
        screen.say(f"and {len(wrong) - SHOWN} more that fail (--json lists them)")
    if report.of(CASCADE):
        screen.say(f"{len(report.of(CASCADE))} quantities differ only as a cascade of {report.first_failing}")
    skipped = {f"{f.stage}: {f.why}" for f in report.of(SKIP)}
    for text in sorted(skipped):
        screen.say(f"not checked: {text}")
    if report.unrecorded:
        screen.say("not recorded: " + ", ".join(f"{kind} ({many})" for kind, many in report.unrecorded.items()))
    if report.unjudged:
        screen.say(f"not checked: nothing here tells what {', '.join(report.unjudged)} should be")
    for name, text in report.tolerances.items():
        screen.say(f"tolerance, {name}: {text}")
    if len(report.of(SKIP)) == len(report.findings):
        raise CheckpointError("nothing could be checked: the candidate has nothing that the golden trace can judge")
    if report.passed:
        screen.say("right: everything that was checked agrees")
    else:
        screen.say(
            f"wrong: the first failing stage is {report.first_failing}; likely cause: {report.cause or 'unknown'}"
        )
