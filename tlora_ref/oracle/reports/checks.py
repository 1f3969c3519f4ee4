"""What the kit found: one result a check, and the report over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlora_ref.oracle.causes import claim
from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.verdict import AS_FLOAT32, Verdict

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
EXPECTED, UNEXPECTED = "expected failure", "unexpected pass"


@dataclass(frozen=True, repr=False)
class CheckResult:
    """One check.

    Attributes
    ----------
    status : "passed", "failed", "skipped", "expected failure" or "unexpected pass" (which is a failure too: the list
        of expected failures is out of date)
    why : the reason of a skip or of an expected failure
    verdict, inputs : of the smallest case that fails
    cause : what explains the failing cases, or most of them
    reproduce : Python lines that repeat the smallest case
    fits : of everything wrong in every failing case, the slips that explain it
    """

    id: str
    note: str
    status: str
    cases: int = 0
    why: str = ""
    verdict: Verdict | None = None
    inputs: Mapping[str, Any] | None = None
    cause: str | None = None
    reproduce: str = ""
    fits: Sequence[Mapping[str, float]] = ()

    @property
    def stage(self) -> str:
        return self.id.partition("/")[0]

    def __repr__(self) -> str:
        return f"CheckResult ({self.line():.400})"

    def line(self) -> str:
        """One line for a person."""
        said = [f"{self.status}: {self.id} ({self.note})"]
        if self.status == UNEXPECTED:
            said.append(f"expected to fail ({self.why}): take it off the list")
        elif self.why:
            said.append(self.why)
        if self.verdict is not None:
            said.append(self.verdict.line())
        return "; ".join(said)


@dataclass(repr=False)
class KitReport:
    """Every check of a candidate.

    `right_as_float32`: its first failing stage, judged as float64, would be right as float32. `about`: {"golden",
    "candidate", "judge": facts}: what was asked of what, digests, versions.
    """

    results: list[CheckResult]
    profile: str
    dtype: str
    right_as_float32: bool = False
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        rows = [f"  {stage}: {status}, {which or text}"[:200] for stage, _, status, text, which in self.rows()]
        told = [row for row, of in zip(rows, self.rows(), strict=True) if of[2] != PASSED]
        right = f"{len(self.of(PASSED))} of {len(self.results)} checks pass"
        head = f"KitReport (profile {self.profile}, {self.dtype}): {self.headline}; {right}"
        return "\n".join([head, *told[:8], *([f"  and {len(told) - 8} more stages"] if len(told) > 8 else [])])

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        if self.passed:
            skipped = len(self.of(SKIPPED))
            return "right: every check of what is there passes" + (f" ({skipped} not checked)" if skipped else "")
        if self.first_failing is None:
            return "nothing new is wrong, but the list of expected failures is out of date, or nothing passed"
        said = [f"wrong: the first failing stage is {self.first_failing}; likely cause: {self.cause or 'unknown'}"]
        failing = {result.stage for result in self.of(FAILED)} - {self.first_failing}
        said += [f"{s} is wrong too: {self.cause_of(s) or 'cause unknown'}" for s in STAGES if s in failing]
        return "; ".join(said)

    @property
    def passed(self) -> bool:
        """Nothing failed that was not expected to, nothing passed that was, and something passed."""
        return not self.of(FAILED) and not self.of(UNEXPECTED) and bool(self.of(PASSED))

    @property
    def first_failing(self) -> str | None:
        """The first stage, in the order of a run, that fails a check."""
        failing = {result.stage for result in self.of(FAILED)}
        return next((stage for stage in STAGES if stage in failing), None)

    @property
    def cause(self) -> str | None:
        """What explains the failing cases of the first failing stage: of all its checks, or of the typical ones."""
        if self.right_as_float32:
            return AS_FLOAT32
        return None if self.first_failing is None else self.cause_of(self.first_failing)

    def cause_of(self, stage: str) -> str | None:
        """What explains the failing cases of a stage."""
        mine = [(r, fit) for r in self.of(FAILED) if r.stage == stage for fit in _fits(r)]
        fits, typical = [fit for _, fit in mine], [i for i, (r, _) in enumerate(mine) if r.id.endswith("/typical")]
        if claim(fits) is None:
            return claim([fits[i] for i in typical])
        return claim(fits, typical)

    def of(self, status: str) -> list[CheckResult]:
        """The results of this status."""
        return [result for result in self.results if result.status == status]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(stage, where the paper has it, result, checks, which) of every stage, for a table."""
        rows = []
        for stage, paper in STAGES.items():
            mine = [r for r in self.results if r.stage == stage]
            if not mine:
                continue
            status = next(
                s for s in (FAILED, UNEXPECTED, PASSED, EXPECTED, SKIPPED) if any(r.status == s for r in mine)
            )
            hit = [r for r in mine if r.status == status]
            names = ", ".join(r.id.partition("/")[2] for r in hit) if status in (FAILED, UNEXPECTED, EXPECTED) else ""
            text = (
                mine[0].why if status == SKIPPED else f"{len(hit)} of {len(mine)}, {sum(r.cases for r in mine)} cases"
            )
            rows.append((stage, paper, status, text, names))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "passed": self.passed,
            "headline": self.headline,
            "first_failing": self.first_failing,
            "cause": self.cause,
            "profile": self.profile,
            "dtype": self.dtype,
            "about": self.about,
            "results": [
                {
                    **{name: getattr(r, name) for name in ("id", "stage", "note", "status", "cases", "why", "cause")},
                    "verdict": None if r.verdict is None else r.verdict.to_dict(),
                    "inputs": None if r.inputs is None else {k: plain(v) for k, v in r.inputs.items()},
                }
                for r in self.results
            ],
        }

    def __str__(self) -> str:
        lines = [f"{stage}: {status} ({text})" for stage, _, status, text, _ in self.rows()]
        lines += [r.line() for r in self.results if r.status in (FAILED, UNEXPECTED)]
        return "\n".join([*lines, self.headline])


def _fits(result: CheckResult) -> Sequence[Mapping[str, float]]:
    """What explains a result; one that was refused, or that gives an answer where none is defined, explains itself."""
    return result.fits or ([] if result.cause is None else [{result.cause: 0.0}])


def plain(value: Any) -> Any:
    """Arrays as nested lists, for JSON and for code that a person runs again."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def reproduction(stage: str, inputs: Mapping[str, Any], dtype: str, profile: str) -> str:
    """Python that repeats one case; `implementation` stands for the candidate."""

    def code(value: Any) -> str:
        if isinstance(value, np.ndarray):
            # a shape with a zero in it does not survive a nested list
            return f"np.array({value.tolist()!r}, dtype=np.{value.dtype})"
        return "[" + ", ".join(map(code, value)) + "]" if isinstance(value, list) else repr(value)

    given = "".join(f"    {name!r}: {code(value)},\n" for name, value in inputs.items())
    return (
        "import numpy as np\n"
        "from math import inf, nan\n"
        "from tlora_ref.method.switches import PROFILES\n"
        "from tlora_ref.oracle.kit.calling import verdicts\n"
        "from tlora_ref.oracle.precision import Precision\n\n"
        f"inputs = {{\n{given}}}\n"
        f"for verdict in verdicts(implementation, {stage!r}, inputs, "
        f"switches=PROFILES[{profile!r}], precision=Precision.of({dtype!r})):\n"
        "    print(verdict.line())\n"
    )
