"""What the files show of a report, be it of traces or of the kit's checks; JUnit and HTML are made of this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.reports.checks import EXPECTED, FAILED, PASSED, SKIPPED, UNEXPECTED, CheckResult, KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, NOTE, PASS, SKIP, Finding

RIGHT, WRONG, FOLLOWS, UNJUDGED, SAID = "right", "wrong", "follows", "not judged", "note"

#: What a finding or a check is called -> what it means for a reader.
MEANING = {
    **{PASS: RIGHT, FAIL: WRONG, CASCADE: FOLLOWS, SKIP: UNJUDGED, NOTE: SAID},
    **{PASSED: RIGHT, FAILED: WRONG, UNEXPECTED: WRONG, EXPECTED: UNJUDGED, SKIPPED: UNJUDGED},
}
#: From what must be seen first to what may be looked over.
URGENT = (WRONG, FOLLOWS, RIGHT, UNJUDGED, SAID)


@dataclass(frozen=True)
class Entry:
    """One quantity of one module, or one check.

    Attributes
    ----------
    where : the module ("all modules" for what is of none), or the check's name within its stage
    what : the property, and what it is held against
    meaning : one of URGENT
    line : all of it, in a line for a person
    share : error / bound, where there is a bound above 0
    """

    stage: str
    where: str
    what: str
    meaning: str
    line: str
    cause: str | None = None
    error: float | None = None
    allowed: float | None = None

    @property
    def share(self) -> float | None:
        return self.error / self.allowed if self.error is not None and self.allowed else None


@dataclass(frozen=True)
class Sheet:
    """Everything that a report file shows.

    Attributes
    ----------
    command : "verify" or "check"
    places : {stage: where the paper has it}, of the stages that are there, in the order of a run
    said : (what, text): how it was judged, and what was not
    about : {side: facts}, as `Report.about`
    """

    command: str
    passed: bool
    headline: str
    cause: str | None
    places: dict[str, str]
    entries: list[Entry]
    said: list[tuple[str, str]]
    about: dict[str, dict[str, Any]]

    def cells(self) -> dict[str, dict[str, list[Entry]]]:
        """{where: {stage: entries, the most urgent first}}, in the order in which they were met."""
        table: dict[str, dict[str, list[Entry]]] = {}
        for entry in self.entries:
            table.setdefault(entry.where, {}).setdefault(entry.stage, []).append(entry)
        for row in table.values():
            for entries in row.values():
                entries.sort(key=lambda e: (URGENT.index(e.meaning), -(e.share or 0.0)))
        return table


def sheet_of(report: Report | KitReport) -> Sheet:
    """What a file shows of this report."""
    if isinstance(report, KitReport):
        entries = [_of_check(result) for result in report.results]
        places = {stage: STAGES[stage] for stage, *_ in report.rows()}
        said = [("profile", report.profile), ("judged as", report.dtype)]
    else:
        entries = [_of_finding(finding) for finding in report.findings]
        places = {stage: paper for stage, (paper, _) in ORDER.items()}
        said = [(f"tolerance, {name}", text) for name, text in report.tolerances.items()]
        seen = report.detects.items()
        said += [(f"smallest relative error seen, {stage}", f"{a:.2g}; in any one {b:.2g}") for stage, (a, b) in seen]
        said += [("required", stage) for stage in report.required]
        said += [(f"not recorded: {kind}", many) for kind, many in report.unrecorded.items()]
        said += [("recorded, and nothing here tells what it should be", kind) for kind in report.unjudged]
    command = "check" if isinstance(report, KitReport) else "verify"
    return Sheet(command, report.passed, report.headline, report.cause, places, entries, said, report.about)


def _of_finding(f: Finding) -> Entry:
    where, verdict, meaning = f.module or "all modules", f.verdict, MEANING[f.status]
    if verdict is None:
        return Entry(f.stage, where, f.why, meaning, f.line())
    what = f"{verdict.what}, against {f.against}"
    return Entry(f.stage, where, what, meaning, f.line(), verdict.cause, verdict.error, verdict.allowed)


def _of_check(r: CheckResult) -> Entry:
    where, verdict = r.id.partition("/")[2], r.verdict
    if verdict is None:
        return Entry(r.stage, where, r.note, MEANING[r.status], r.line(), r.cause)
    return Entry(r.stage, where, r.note, MEANING[r.status], r.line(), r.cause, verdict.error, verdict.allowed)
