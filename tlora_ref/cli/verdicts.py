"""How the oracle's verdicts are printed: of an implementation over cases, and of a candidate beside a golden trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import typer

from tlora_ref.cli.screen import Screen
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.reports.checks import EXPECTED, FAILED, SKIPPED, UNEXPECTED, KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.files import write_report

#: Failing checks that are printed before the rest is only counted.
SHOWN_CHECKS = 6
#: A smallest case of more characters than this is left to --json.
LONGEST = 2000


def show_checks(screen: Screen, report: KitReport, file: Path | None) -> None:
    """The table of stages, what fails with its smallest case, and the verdict; all of it in `file` as well."""
    _write(screen, report, file)
    screen.say(f"profile {report.profile}, judged as {report.dtype}")
    screen.table("Stages", ("stage", "paper", "result", "checks"), joined(report.rows()))
    wrong = [r for r in report.results if r.status in (FAILED, UNEXPECTED)]
    for result in wrong[:SHOWN_CHECKS]:
        screen.say(result.line())
    if len(wrong) > SHOWN_CHECKS:
        screen.say(f"and {len(wrong) - SHOWN_CHECKS} more that fail (--json lists them)")
    for result in report.of(EXPECTED):
        screen.say(f"{result.id}: fails as expected ({result.why})")
    first = next((r for r in wrong if r.stage == report.first_failing and len(r.reproduce) <= LONGEST), None)
    if first is not None:
        screen.say(f"\nthe smallest case of {first.id}, to run again:\n\n{first.reproduce}")
    screen.say(report.headline)


def finish_checks(screen: Screen, report: KitReport) -> None:
    """The verdict for a machine, and as the exit status. ConfigError if there is none: every check was skipped."""
    if len(report.of(SKIPPED)) == len(report.results):
        raise ConfigError("nothing could be checked: no stage or output that was asked for is there")
    screen.finish(report.to_dict())
    if not report.passed:
        raise typer.Exit(1)


def show_findings(screen: Screen, report: Report, file: Path | None) -> None:
    """The table of stages, what is wrong, and the verdict; all of it in `file` as well."""
    _write(screen, report, file)
    screen.table("Stages", ("stage", "paper", "result", "checks"), joined(report.rows()))
    *lines, verdict = report.lines()
    for line in lines:
        screen.say(line)
    if not report.judged:
        raise CheckpointError("nothing could be checked: the candidate has nothing that the golden trace can judge")
    screen.say(verdict)


def joined(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """The rows with how many checks and which, or the worst, in one column, which may take several lines."""
    return [(*row[:-2], ": ".join(filter(None, row[-2:]))) for row in rows]


def _write(screen: Screen, report: KitReport | Report, file: Path | None) -> None:
    if file is not None:
        write_report(report, file)
        screen.say(f"wrote {file}")
