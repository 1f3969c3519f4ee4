"""The report of a comparison: every finding, and what follows from them together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.oracle import causes
from tlora_ref.oracle.order import ORDER, STAGE_OF
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, NOTE, OWN_INPUTS, PASS, SKIP, Finding, gathered
from tlora_ref.oracle.stages.same_run import SAY
from tlora_ref.oracle.verdict import AS_FLOAT32, OTHER_SAMPLES

#: How much of a stage could be judged.
FULL, PART, NONE = "full", "part", "none"
#: Findings that are told in lines before the rest is only counted.
SHOWN = 12


@dataclass(repr=False)
class Report:
    """Every finding of a comparison, with the tolerances that were used.

    Attributes
    ----------
    right_as_float32 : a candidate that claims float64 is wrong, but would be right if it claimed float32
    other_samples : the candidate says that it is of other samples than the golden run
    unrecorded : {kind of name: "k of n"} that the golden trace has and the candidate does not
    unjudged : kinds of names that the candidate has and that nothing was held against
    required : stages that must have been judged in full
    about : {"golden", "candidate", "judge": facts}: folders, digests, versions
    """

    findings: list[Finding]
    tolerances: dict[str, str] = field(default_factory=dict)
    right_as_float32: bool = False
    other_samples: bool = False
    unrecorded: dict[str, str] = field(default_factory=dict)
    unjudged: list[str] = field(default_factory=list)
    required: tuple[str, ...] = ()
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        rows = [f"  {stage}: {status}, {text:.200}" for stage, _, status, text, _ in self.rows()]
        return "\n".join([f"Report: {self.headline}", *rows])

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        if not self.judged:
            return "; ".join(["nothing could be checked", *self._asked])
        if self.first_failing is None:
            covered = [stage for stage in ORDER if self.coverage[stage] == FULL]
            said = [f"right in {len(covered)} of {len(ORDER)} stages"]
            for how, text in ((PART, "in part"), (NONE, "not judged")):
                stages = [stage for stage in ORDER if self.coverage[stage] == how]
                said += [f"{len(stages)} {text} ({', '.join(stages)})"] if stages else []
            said += [f"required, and not judged in full: {', '.join(self.lacking)}"] if self.lacking else []
            return "; ".join([*said, *self._asked])
        said = [f"wrong: the first failing stage is {self.first_failing}; likely cause: {self.cause or 'unknown'}"]
        failing = {finding.stage for finding in self.of(FAIL)} - {self.first_failing}
        said += [f"{s} is wrong by itself too: {self.cause_of(s) or 'cause unknown'}" for s in ORDER if s in failing]
        return "; ".join(said)

    @property
    def _asked(self) -> list[str]:
        """What the user may say for more to be judged."""
        stages = dict.fromkeys(f.stage for f in self.of(SKIP) if SAY in f.why)
        return [f"say {SAY} if it is of the golden run's samples and settings, to judge {', '.join(stages)}"] * bool(
            stages
        )

    @property
    def passed(self) -> bool:
        """Nothing that could be checked is wrong, something could be, and what was required was."""
        return not self.of(FAIL) and not self.of(CASCADE) and bool(self.of(PASS)) and not self.lacking

    @property
    def judged(self) -> list[Finding]:
        """The findings that say right or wrong."""
        return [finding for finding in self.findings if finding.verdict is not None]

    @property
    def coverage(self) -> dict[str, str]:
        """{stage: "full", "part" or "none"}: how much of it could be judged."""
        judged, skipped = ({f.stage for f in found} for found in (self.judged, self.of(SKIP)))
        skipped |= {STAGE_OF[kind] for kind in self.unjudged if kind in STAGE_OF}
        return {stage: NONE if stage not in judged else PART if stage in skipped else FULL for stage in ORDER}

    @property
    def lacking(self) -> list[str]:
        """The required stages that were not judged in full."""
        return [stage for stage in self.required if self.coverage[stage] != FULL]

    @property
    def first_failing(self) -> str | None:
        """The first stage, in the order of a run, that is wrong by itself."""
        failing = {finding.stage for finding in self.of(FAIL)}
        return next((stage for stage in ORDER if stage in failing), None)

    @property
    def cause(self) -> str | None:
        """What explains the findings of the first failing stage, or of most of them: see `causes.py`; else what does
        of all stages."""
        said = self.known_cause
        if said is None and self.right_as_float32:
            return AS_FLOAT32
        if said is None and self.other_samples:
            return OTHER_SAMPLES
        return said if said or self.first_failing is None else self.cause_of(self.first_failing)

    @property
    def known_cause(self) -> str | None:
        """The cause, where it is more than a factor."""
        return None if self.first_failing is None else self._explained(self.first_failing, known=True)

    def cause_of(self, stage: str) -> str | None:
        """What explains the failing findings of a stage.

        Where it fails by its own inputs, those findings tell: what differs from the golden run beside them follows.
        Where they tell nothing, that does.
        Where nothing explains the gradients of all steps, the first wrong step tells: at B = 0 a wrong scale is a
        factor, later it changes the forward pass too.
        """
        return self._explained(stage, known=True) or self._explained(stage, known=False)

    def _explained(self, stage: str, *, known: bool) -> str | None:
        failing = [f for f in self.of(FAIL) if f.stage == stage]
        own = [f for f in failing if f.against == OWN_INPUTS]
        others = [f for f in failing if f.against != OWN_INPUTS]
        told = [[(f.step, f.verdict.explained_by) for f in found if f.verdict is not None] for found in (own, others)]
        return next(filter(None, (_claimed(stage, fits, known=known) for fits in told)), None)

    @property
    def detects(self) -> dict[str, tuple[float, float]]:
        """{stage: (relative error of all of it, of any one quantity of a module, from which on it is seen)}.

        Of what is held exactly (counts, a frozen A) nothing is told, but where there is nothing else.
        """
        seen: dict[str, dict[tuple[str | None, str], float]] = {}
        for f in self.judged:
            if f.verdict is not None and f.verdict.detects is not None:
                mine, key = seen.setdefault(f.stage, {}), (f.module, f.verdict.what)
                mine[key] = min(f.verdict.detects, mine.get(key, math.inf))
        told = {stage: [x for x in mine.values() if x > 0.0] or [0.0] for stage, mine in seen.items()}
        return {stage: (min(told[stage]), max(told[stage])) for stage in ORDER if stage in told}

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
            checked = sum(f.verdict is not None for f in mine)
            text = {
                FAIL: f"{wrong} of {checked} wrong",
                CASCADE: f"{wrong} of {checked} differ: follows from {self.first_failing}",
                PASS: f"{checked} checked",
                SKIP: "; ".join(gathered(f.why for f in mine if f.status == SKIP)) or "not recorded",
            }[status]
            rows.append((stage, equation, status, text, _worst(f for f in mine if f.status == status)))
        return rows

    def lines(self) -> list[str]:
        """What is wrong, what was not judged, how it was judged, and the verdict: a line each, for a person."""
        wrong = self.of(FAIL)
        said = [finding.line() for finding in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            said.append(f"and {len(wrong) - SHOWN} more that fail (a report as JSON lists them)")
        if self.of(CASCADE):
            said.append(f"{len(self.of(CASCADE))} quantities differ only as a cascade of {self.first_failing}")
        for stage in sorted({f.stage for f in self.of(SKIP)}):
            whys = gathered(f.why for f in self.of(SKIP) if f.stage == stage)
            said += [f"not checked: {stage}: {why}" for why in whys]
        notes = self.of(NOTE)
        said += [f"note: {f.stage}{f', {f.module}' if f.module else ''}: {f.why}" for f in notes[:SHOWN]]
        if len(notes) > SHOWN:
            said.append(f"and {len(notes) - SHOWN} more notes (a report as JSON lists them)")
        if self.unrecorded:
            said.append("not recorded: " + ", ".join(f"{kind} ({many})" for kind, many in self.unrecorded.items()))
        if self.unjudged:
            said.append(f"not checked: nothing here tells what {', '.join(self.unjudged)} should be")
        if self.detects:
            seen = [f"{stage} {_from_to(*found)}" for stage, found in self.detects.items()]
            said.append(
                f"smallest relative error that is seen, of a whole stage (of any one quantity): {', '.join(seen)}"
            )
        said += [f"tolerance, {name}: {text}" for name, text in self.tolerances.items()]
        return [*said, self.headline]

    def __str__(self) -> str:
        return "\n".join([*(f"{stage}: {status} ({text})" for stage, _, status, text, _ in self.rows()), *self.lines()])

    def to_dict(self, *, every: bool = False) -> dict[str, Any]:
        """As JSON values: the verdict, and every finding that is not a pass (with `every`, those too)."""
        return {
            "passed": self.passed,
            "headline": self.headline,
            "first_failing": self.first_failing,
            "cause": self.cause,
            "counts": {status: len(self.of(status)) for status in (PASS, FAIL, CASCADE, SKIP, NOTE)},
            "coverage": self.coverage,
            "required": list(self.required),
            "lacking": self.lacking,
            "tolerances": self.tolerances,
            "detects": {stage: list(found) for stage, found in self.detects.items()},
            "unrecorded": self.unrecorded,
            "unjudged": self.unjudged,
            "about": self.about,
            "findings": [
                {
                    **{name: getattr(f, name) for name in ("stage", "equation", "against", "module", "status", "why")},
                    "verdict": None if f.verdict is None else f.verdict.to_dict(),
                }
                for f in self.findings
                if every or f.status != PASS
            ],
        }


def _from_to(all_of_it: float, any_one: float) -> str:
    if any_one == 0.0:
        return "exact"
    return f"{all_of_it:.1g}" if any_one < 2.0 * all_of_it else f"{all_of_it:.1g} ({any_one:.1g})"


def _worst(findings: Iterable[Finding]) -> str:
    """The finding that is furthest from its bound, in a few words."""
    judged = [(f, f.verdict) for f in findings if f.verdict is not None]
    if not judged:
        return ""
    finding, verdict = max(judged, key=lambda pair: pair[1].error / (pair[1].allowed or 1e-300))
    return f"{finding.module or ''} {verdict.what}: off by {verdict.error:.2g}, allowed {verdict.allowed:.2g}".strip()


def _claimed(stage: str, told: list[tuple[int | None, dict[str, float]]], *, known: bool) -> str | None:
    """What explains these findings of a stage together, each with its step; `known` causes alone, or a factor too."""
    fits = causes.known([fits for _, fits in told]) if known else [fits for _, fits in told]
    said = causes.claim(fits)
    if said is None and stage == "gradient":
        first = min((step for step, _ in told if step is not None), default=None)
        alone = causes.claim([fit for (step, _), fit in zip(told, fits, strict=True) if step == first])
        said = None if alone is None else f"{alone}, by step {first} alone"
    return said
