"""The walk over the stages of a run: what is wrong by itself, and what only follows from a mistake before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tlora_ref.oracle.order import ORDER, STAGE_OF
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, GOLDEN, PASS, Finding
from tlora_ref.oracle.stages import ablation, adamw, covariance, gradient, loss, merge, sensitivity
from tlora_ref.oracle.stages.bounds import malformed
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.traces.names import kind_of

#: Stage -> what it finds: its quantities by the candidate's own inputs, and against the golden ones.
STAGES: dict[str, Callable[[Sides], list[Finding]]] = {
    "loss": loss.findings,
    "covariance": covariance.findings,
    "sensitivity": sensitivity.findings,
    "ranks": ablation.ranks_of,
    "scales": ablation.scales_of,
    "A": ablation.A_of,
    "gradient": gradient.findings,
    "adamw": adamw.findings,
    "merge": merge.findings,
}


def walk(sides: Sides) -> list[Finding]:
    """The findings of every stage, in the order of a run, each with its status."""
    found: list[Finding] = []
    for stage in ORDER:
        found += _settled(stage, _not_finite(sides, stage) + STAGES[stage](sides), found)
    return _in_time(found)


def _in_time(found: list[Finding]) -> list[Finding]:
    """Gradients that are wrong only after a wrong update follow from it: the update came before them.

    At a B that a wrong update made large the network may be so rough that no bound of one run's noise holds.
    """
    updates = [f.step for f in found if f.stage == "adamw" and f.status == FAIL and f.step is not None]
    gradients = [f for f in found if f.stage == "gradient" and f.status == FAIL]
    if not updates or any(f.step is None or f.step <= min(updates) for f in gradients):
        return found
    return [replace(f, status=CASCADE) if f in gradients else f for f in found]


def _not_finite(sides: Sides, stage: str) -> list[Finding]:
    """What the candidate recorded for this stage and is no number."""
    found = []
    for name, (index, value) in sides.not_finite.items():
        if STAGE_OF[kind_of(name)] == stage:
            module = next((m for m in sides.golden.shapes if name.endswith(f"/{m}")), None)
            verdict = malformed(stage, name.removesuffix(f"/{module}"), f"holds {value} at {list(index)}")
            finding = sides.own(stage, module, replace(verdict, index=index))
            found.append(replace(finding, step=_step_of(name, index)))
    return found


def _step_of(name: str, index: tuple[int, ...]) -> int | None:
    """The step of training that an entry of a quantity belongs to: "train/<t>/..." has it, "train/loss" is by step."""
    part, *rest = name.split("/")
    if part != "train":
        return None
    return int(rest[0]) if rest[0].isdigit() else index[0] + 1


def _settled(stage: str, found: list[Finding], before: list[Finding]) -> list[Finding]:
    """The status of each finding: a fail only where the stage itself is wrong."""
    upstream = {f.stage for f in before if f.status == FAIL} & set(ORDER[stage][1])

    def status(f: Finding) -> str:
        if f.verdict is None:
            return f.status
        if f.verdict.passed:
            return PASS
        # wrong against golden alone, after a right recomputation, and with nothing wrong before: still wrong
        return CASCADE if f.against == GOLDEN and upstream else FAIL

    return [replace(f, status=status(f)) for f in found]
