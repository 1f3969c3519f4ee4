"""Claim by claim: what the paper says, what the results in a folder say of it, and the command that gave them.

A claim is data (`examples/studies/claims.yaml`). One that compares says which setting should have less test loss than
which; its verdict follows from the paired differences alone. One about larger models says what testing it would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.files import read_yaml
from tlora_ref.study.analysis import (
    BETTER,
    CONFIDENCE,
    LEAST_SEEDS,
    SETTING,
    WORSE,
    Difference,
    Outcome,
    corrected,
    difference,
    find,
    outcomes,
    paired_means,
)
from tlora_ref.study.results import Results

REPRODUCED, NOT, OPEN = "reproduced", "not reproduced", "undecided"
MEASURED, NOT_MEASURED, LARGER = "measured", "not measured", "needs a larger model"
MEANING = {
    REPRODUCED: "the 95% interval of the paired differences of test loss lies on the claim's side of zero",
    NOT: "it lies on the other side",
    OPEN: f"it includes zero, or there are fewer than {LEAST_SEEDS} seeds",
    MEASURED: "a figure beside the paper's, with nothing to compare by an interval",
    NOT_MEASURED: "the study is there, its runs are not: the command makes them",
    LARGER: "not tested here",
}


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes
    ----------
    claim, where : its words, and the table or section; nothing for a comparison of our own, not the paper's
    study : whose results decide
    less, than : two settings (`SETTING`, those that matter): the first should have less test loss
    measure, of, beside : the name of a measure (`Outcome.measures`), the setting for which it is told, and perhaps
        another to set beside it
    paper : the paper's own figure of it
    larger : what testing it would take, where no small model can
    note : what a reader must know to weigh the verdict
    """

    claim: str
    where: str
    study: str = ""
    less: dict[str, Any] | None = None
    than: dict[str, Any] | None = None
    measure: str = ""
    of: dict[str, Any] | None = None
    beside: dict[str, Any] | None = None
    paper: str = ""
    larger: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, is_setting = getattr(self, f.name), f.name in ("less", "than", "of", "beside")
            if not isinstance(value, dict | None if is_setting else str):
                expected = "a setting, e.g. {variant: TLoRA}" if is_setting else "text"
                raise ConfigError(f'claim "{self.claim!r:.60}": {f.name} is {value!r:.60}, expected {expected}')
        kinds = [bool(self.less and self.than), bool(self.measure and self.of), bool(self.larger)]
        if sum(kinds) != 1 or bool(self.less) != bool(self.than) or bool(self.study) == bool(self.larger):
            raise ConfigError(
                f'claim "{self.claim}": expected a study with less and than, or with measure and of; or else larger'
            )
        for setting in (self.less, self.than, self.of, self.beside):
            for name in setting or {}:
                if name not in SETTING:
                    raise ConfigError(
                        f'claim "{self.claim}": unknown key "{name}", expected some of {", ".join(SETTING)}'
                        f"{did_you_mean(name, SETTING)}"
                    )


@dataclass(frozen=True)
class Finding:
    """A claim's verdict (one of MEANING), its figures for a person, and the difference where one is compared.

    `q` is the difference's p, corrected for all the claims that were judged with it and have seeds enough.
    """

    claim: Claim
    verdict: str
    figures: str
    gap: Difference | None = None
    q: float | None = None

    @property
    def stands(self) -> bool:
        """Whether the difference is beyond chance when corrected for the number of comparisons."""
        return self.q is not None and self.q <= round(1 - CONFIDENCE, 6)


def load_claims(file: str | Path) -> list[Claim]:
    """The claims in a YAML file, a list of mappings; ConfigError for anything else."""
    file = Path(file)
    values = read_yaml(file)
    known = [f.name for f in fields(Claim)]
    claims = []
    for entry in values if isinstance(values, list) else [None]:
        if not isinstance(entry, dict) or not {"claim", "where"} <= set(entry):
            raise ConfigError(f"{file}: expected a list of claims, each with `claim` and `where`")
        for key in entry:
            if key not in known:
                hint = did_you_mean(key, known)
                raise ConfigError(f'{file}: unknown key "{key}", expected {", ".join(known)}{hint}')
        claims.append(Claim(**entry))
    return claims


def judge(claims: Sequence[Claim], results: Sequence[Results]) -> list[Finding]:
    """Every claim with what the results say of it."""
    found = {result.name: outcomes(result.runs) for result in results}
    findings = [_finding(claim, found.get(claim.study, [])) for claim in claims]
    compared = {i: f.gap.p for i, f in enumerate(findings) if f.gap is not None and f.gap.seeds >= LEAST_SEEDS}
    qs = dict(zip(compared, corrected(list(compared.values())), strict=True))
    return [replace(finding, q=qs.get(i)) for i, finding in enumerate(findings)]


def _finding(claim: Claim, found: Sequence[Outcome]) -> Finding:
    if claim.larger:
        return Finding(claim, LARGER, claim.larger)
    if claim.of is not None:
        return _told(claim, found)
    first, second = find(found, **(claim.less or {})), find(found, **(claim.than or {}))
    gap = None if first is None or second is None else difference(first, second)
    if first is None or second is None or gap is None:
        return Finding(claim, NOT_MEASURED, "")
    verdict = {BETTER: REPRODUCED, WORSE: NOT}.get(gap.verdict, OPEN)
    more = f"; {gap.seeds_needed:,} seeds would show this difference" if verdict == OPEN and gap.seeds_needed else ""
    more = "; too few seeds" if gap.seeds < LEAST_SEEDS else more
    edge = [o.setting["variant"] for o in (first, second) if o.at_edge]
    more += f"; the rate of {' and '.join(edge)} is at the edge of those tried" if edge else ""
    one, other = paired_means(first, second)
    return Finding(
        claim,
        verdict,
        f"{one:.4f} against {other:.4f}, difference {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}), "
        f"{gap.seeds} seeds; {first.trained:,.0f} and {second.trained:,.0f} trained{more}",
        gap,
    )


def _told(claim: Claim, found: Sequence[Outcome]) -> Finding:
    """A measure, with nothing that would decide."""
    told = []
    for setting in (claim.of, claim.beside):
        outcome = None if setting is None else find(found, **setting)
        if setting is not None and (outcome is None or claim.measure not in outcome.measures):
            return Finding(claim, NOT_MEASURED, "")
        if outcome is not None and setting is not None:
            told.append(f"{', '.join(map(str, setting.values()))} {outcome.measures[claim.measure]:.3g}")
            seeds = len(outcome.test)
    paper = f", the paper's {claim.paper}" if claim.paper else ""
    return Finding(claim, MEASURED, f"{claim.measure}: {', '.join(told)} (mean of {seeds} seeds){paper}")
