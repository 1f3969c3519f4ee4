"""How the oracle's verdicts are printed: of an implementation over cases, and of a candidate beside a golden trace."""

from __future__ import annotations

import typer

from tlora_ref.cli.screen import Screen
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.reports.checks import EXPECTED, FAILED, SKIPPED, UNEXPECTED, KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, NOTE, SKIP

#: Failing checks, and findings of a trace, that are printed before the rest is only counted.
SHOWN_CHECKS, SHOWN_FINDINGS = 6, 12
#: A smallest case of more characters than this is left to --json.
LONGEST = 2000


def show_checks(screen: Screen, report: KitReport) -> None:
    """The table of stages, what fails with its smallest case, and the verdict."""
    screen.say(f"profile {report.profile}, judged as {report.dtype}")
    screen.table("Stages", ("stage", "paper", "result", "checks", "which"), report.rows())
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


def show_findings(screen: Screen, report: Report) -> None:
    """The table of stages, what is wrong, and the verdict."""
    screen.table("Stages", ("stage", "paper", "result", "checks", "worst"), report.rows())
    wrong = report.of(FAIL)
    for finding in wrong[:SHOWN_FINDINGS]:
        screen.say(finding.line())
    if len(wrong) > SHOWN_FINDINGS:
        screen.say(f"and {len(wrong) - SHOWN_FINDINGS} more that fail (--json lists them)")
    if report.of(CASCADE):
        screen.say(f"{len(report.of(CASCADE))} quantities differ only as a cascade of {report.first_failing}")
    skipped = {f"{f.stage}: {f.why}" for f in report.of(SKIP)}
    for text in sorted(skipped):
        screen.say(f"not checked: {text}")
    notes = report.of(NOTE)
    for finding in notes[:SHOWN_FINDINGS]:
        screen.say(f"note: {finding.stage}{f', {finding.module}' if finding.module else ''}: {finding.why}")
    if len(notes) > SHOWN_FINDINGS:
        screen.say(f"and {len(notes) - SHOWN_FINDINGS} more notes (--json lists them)")
    if report.unrecorded:
        screen.say("not recorded: " + ", ".join(f"{kind} ({many})" for kind, many in report.unrecorded.items()))
    if report.unjudged:
        screen.say(f"not checked: nothing here tells what {', '.join(report.unjudged)} should be")
    for name, text in report.tolerances.items():
        screen.say(f"tolerance, {name}: {text}")
    if not report.judged:
        raise CheckpointError("nothing could be checked: the candidate has nothing that the golden trace can judge")
    screen.say(report.headline)
