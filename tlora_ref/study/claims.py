"""Claim by claim: what the paper says, what the results in a folder say of it, and the command that gave them.

A claim is data (`examples/studies/claims.yaml`). One that compares says which setting should have less test loss than
which; its verdict follows from the paired differences alone. One about larger models says what testing it would take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.files import read_yaml
from tlora_ref.study.analysis import (
    BETTER,
    LEAST_SEEDS,
    SETTING,
    WORSE,
    Outcome,
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
    claim, where : its words, and the table or section
    study : whose results decide
    less, than : two settings (`SETTING`, those that matter): the first should have less test loss
    phi, paper : the setting whose phi is told, beside the paper's own figure
    larger : what testing it would take, where no small model can
    """

    claim: str
    where: str
    study: str = ""
    less: dict[str, Any] | None = None
    than: dict[str, Any] | None = None
    phi: dict[str, Any] | None = None
    paper: str = ""
    larger: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            value, setting = getattr(self, f.name), f.name in ("less", "than", "phi")
            if not isinstance(value, dict | None if setting else str):
                expected = "a setting, e.g. {variant: TLoRA}" if setting else "text"
                raise ConfigError(f'claim "{self.claim!r:.60}": {f.name} is {value!r:.60}, expected {expected}')
        kinds = [bool(self.less and self.than), bool(self.phi), bool(self.larger)]
        if sum(kinds) != 1 or bool(self.less) != bool(self.than) or bool(self.study) == bool(self.larger):
            raise ConfigError(f'claim "{self.claim}": expected a study with less and than, or with phi; or else larger')
        for setting in (self.less, self.than, self.phi):
            for name in setting or {}:
                if name not in SETTING:
                    raise ConfigError(
                        f'claim "{self.claim}": unknown key "{name}", expected some of {", ".join(SETTING)}'
                        f"{did_you_mean(name, SETTING)}"
                    )


@dataclass(frozen=True)
class Finding:
    """A claim's verdict (one of MEANING), and its figures for a person."""

    claim: Claim
    verdict: str
    figures: str


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
    return [_finding(claim, found.get(claim.study, [])) for claim in claims]


def _finding(claim: Claim, found: Sequence[Outcome]) -> Finding:
    if claim.larger:
        return Finding(claim, LARGER, claim.larger)
    if claim.phi is not None:
        outcome = find(found, **claim.phi)
        if outcome is None or outcome.phi is None:
            return Finding(claim, NOT_MEASURED, "")
        said = f"phi {outcome.phi:.3f} (mean of {len(outcome.test)} seeds), the paper's {claim.paper}"
        return Finding(claim, MEASURED, said)
    first, second = find(found, **(claim.less or {})), find(found, **(claim.than or {}))
    gap = None if first is None or second is None else difference(first, second)
    if first is None or second is None or gap is None:
        return Finding(claim, NOT_MEASURED, "")
    verdict = {BETTER: REPRODUCED, WORSE: NOT}.get(gap.verdict, OPEN)
    more = f"; {gap.seeds_needed:,} seeds would show this difference" if verdict == OPEN and gap.seeds_needed else ""
    more = "; too few seeds" if gap.seeds < LEAST_SEEDS else more
    one, other = paired_means(first, second)
    return Finding(
        claim,
        verdict,
        f"{one:.4f} against {other:.4f}, difference {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}), "
        f"{gap.seeds} seeds; {first.trained:,.0f} and {second.trained:,.0f} trained{more}",
    )


def page(findings: Sequence[Finding], results: Sequence[Results], regenerate: str) -> str:
    """The page of claims in Markdown; `regenerate` is the command that makes it."""
    lines = [
        "# What the paper claims, and what was measured here",
        "",
        f"Generated by `{regenerate}` from the runs in [results](results); no figure is written by hand.",
        "The model is the shipped one, of 857,216 weights; the paper's have up to 13 billion. So orders are compared,",
        "not values. Figures are test losses (nats a scored token, less is better), each at the learning rate of",
        "least validation loss. How: [the room of studies](../../tlora_ref/study/README.md).",
        "",
        *_counts(findings),
        "",
        "| claim | where | verdict | figures | command |",
        "| --- | --- | --- | --- | --- |",
        *(_row(finding) for finding in findings),
        "",
        "## The studies",
        "",
        "Intervals are scipy's BCa bootstrap over paired differences. With five seeds they are somewhat too short. An",
        "outcome at the edge of the learning rates may have a better rate beyond it.",
        "",
        "| study | runs | seeds | steps x batch | learning rates | at the edge of those |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_study(result) for result in results),
        "",
    ]
    return "\n".join(lines)


def _counts(findings: Sequence[Finding]) -> Iterator[str]:
    counted = Counter(finding.verdict for finding in findings)
    for verdict, meaning in MEANING.items():
        yield f"- **{verdict}**, {counted[verdict]}: {meaning}"


def _row(finding: Finding) -> str:
    study = finding.claim.study
    command = f"`tlora-ref study examples/studies/{study}.yaml --out examples/studies/results`" if study else ""
    cells = (finding.claim.claim, finding.claim.where, f"**{finding.verdict}**", finding.figures, command)
    return "| " + " | ".join(cell.replace("|", "/").strip() for cell in cells) + " |"


def _study(result: Results) -> str:
    """A study's row; how many of its outcomes have a rate with nothing beyond it."""
    found, study = outcomes(result.runs), result.study
    seeds = sorted({len(outcome.test) for outcome in found})
    span = "none" if not seeds else str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    rates = ", ".join(f"{lr:g}" for lr in study["learning_rates"])
    edge = f"{sum(outcome.at_edge for outcome in found)} of {len(found)} outcomes"
    runs = f"{len(result.runs)} of {result.cells}"
    return f"| {result.name} | {runs} | {span} | {study['steps']} x {study['batch_size']} | {rates} | {edge} |"
