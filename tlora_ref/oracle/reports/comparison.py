"""The report of a comparison: every finding, and what follows from them together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, PASS, SKIP, Finding
from tlora_ref.oracle.verdict import AS_FLOAT32


@dataclass(repr=False)
class Report:
    """Every finding of a comparison, with the tolerances that were used.

    Attributes
    ----------
    right_as_float32 : a candidate that claims float64 is wrong, but would be right if it claimed float32
    unrecorded : {kind of name: "k of n"} that the golden trace has and the candidate does not
    unjudged : kinds of names that the candidate has and that nothing was held against
    """

    findings: list[Finding]
    tolerances: dict[str, str] = field(default_factory=dict)
    right_as_float32: bool = False
    unrecorded: dict[str, str] = field(default_factory=dict)
    unjudged: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        rows = [f"  {stage}: {status}, {text:.200}" for stage, _, status, text, _ in self.rows()]
        return "\n".join([f"Report: {self.headline}", *rows])

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        if self.passed:
            return "right: everything that was checked agrees"
        if self.first_failing is None:
            return "nothing could be checked"
        return f"wrong: the first failing stage is {self.first_failing}; likely cause: {self.cause or 'unknown'}"

    @property
    def passed(self) -> bool:
        """Nothing that could be checked is wrong, and something could be."""
        return not self.of(FAIL) and not self.of(CASCADE) and bool(self.of(PASS))

    @property
    def first_failing(self) -> str | None:
        """The first stage, in the order of a run, that is wrong by itself."""
        failing = {finding.stage for finding in self.of(FAIL)}
        return next((stage for stage in ORDER if stage in failing), None)

    @property
    def cause(self) -> str | None:
        """What the first failing stage looks like: the cause that most of its modules share."""
        causes = [f.verdict.cause for f in self.of(FAIL) if f.stage == self.first_failing and f.verdict]
        known = [cause for cause in causes if cause]
        if not known and self.right_as_float32:
            return AS_FLOAT32
        return max(known, key=known.count) if known else None

    def of(self, status: str) -> list[Finding]:
        """The findings of this status."""
        return [finding for finding in self.findings if finding.status == status]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(stage, equation, result, checked, worst or why) of every stage, for a table."""
        rows = []
        for stage, (equation, _) in ORDER.items():
            mine = [f for f in self.findings if f.stage == stage]
            status = next((s for s in (FAIL, CASCADE, PASS) if any(f.status == s for f in mine)), SKIP)
            wrong = sum(f.status == status for f in mine)
            checked = sum(f.status != SKIP for f in mine)
            text = {
                FAIL: f"{wrong} of {checked} wrong",
                CASCADE: f"{wrong} of {checked} differ: follows from {self.first_failing}",
                PASS: f"{checked} checked",
                SKIP: "; ".join(sorted({f.why for f in mine})) or "not recorded",
            }[status]
            rows.append((stage, equation, status, text, _worst(f for f in mine if f.status == status)))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the verdict, and every finding that is not a pass."""
        return {
            "passed": self.passed,
            "first_failing": self.first_failing,
            "cause": self.cause,
            "counts": {status: len(self.of(status)) for status in (PASS, FAIL, CASCADE, SKIP)},
            "tolerances": self.tolerances,
            "unrecorded": self.unrecorded,
            "unjudged": self.unjudged,
            "findings": [
                {
                    **{name: getattr(f, name) for name in ("stage", "equation", "against", "module", "status", "why")},
                    "verdict": None if f.verdict is None else f.verdict.to_dict(),
                }
                for f in self.findings
                if f.status != PASS
            ],
        }


def _worst(findings: Iterable[Finding]) -> str:
    """The finding that is furthest from its bound, in a few words."""
    judged = [(f, f.verdict) for f in findings if f.verdict is not None]
    if not judged:
        return ""
    finding, verdict = max(judged, key=lambda pair: pair[1].error / (pair[1].allowed or 1e-300))
    return f"{finding.module or ''} {verdict.what}: off by {verdict.error:.2g}, allowed {verdict.allowed:.2g}".strip()
