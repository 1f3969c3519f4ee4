"""B after a run whose steps the candidate did not record: golden's own, and how far the noise of the run may carry it.

The golden gradients go through AdamW again, each with what it may be off by: the noise of the network, as it was
measured; rows of A that are not quite golden's; and what an error in B before the step makes of the gradient, by how
much golden's gradients change as its B does. So bounds grow from step to step, and may become larger than B itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.adamw import clip_factor
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, both, entries, rms, root_mean_square
from tlora_ref.oracle.stages.moments import Moments, step_with_errors
from tlora_ref.oracle.stages.rows import Rows, rows_of, signed_permutation
from tlora_ref.oracle.stages.same_run import SAY, contradiction, unsaid
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.verdict import Verdict

#: An error in B changes a gradient by at most this many times what golden's own steps change it by, for their size.
ROUGHER = 2.0

UNTRAINED = "B is not trained"


@dataclass(frozen=True)
class Trained:
    """B (d_out, r) of a module after a golden step, on golden's rows of A.

    Attributes
    ----------
    error, usual : how far each entry may be off; and in the root mean square, in a low precision
    before : B one step earlier
    """

    B: Array
    error: Array
    usual: Array
    before: Array
    rows: Rows


def trained(sides: Sides, last: int) -> dict[str, Trained] | str:
    """{module: B after step `last`}, or why golden's run cannot tell it of the candidate."""
    g = sides.golden
    modules = g.modules("A")
    names = [f"train/{t}/{kind}/{m}" for t in range(1, last + 1) for kind in ("grad_B", "B") for m in modules]
    why = _another_run(sides)
    if why is None and not all(map(g.has, [*names, "train/lr"])):
        why = "the golden trace has not all gradients and B up to this step"
    if why is not None:
        return why
    rows = {m: rows_of(sides, m) for m in modules}
    for found in rows.values():
        if isinstance(found, str):
            return found
    return _Run(sides, {m: r for m, r in rows.items() if isinstance(r, Rows)}).after(last)


def _another_run(sides: Sides) -> str | None:
    """Why golden's B is not known to be the candidate's."""
    golden, candidate = sides.golden, sides.candidate
    if not golden.manifest.train:
        return "the golden trace does not say how it was trained"
    if not sides.switches.freeze_A:
        return "this run trains A too: its steps must be recorded"
    if (why := contradiction(golden, candidate)) is not None:
        return f"{why}: its steps must be recorded"
    if not sides.same_run and (why := unsaid(golden, candidate)) is not None:
        return f"{why}: say {SAY} if they are the golden run's"
    return None


class _Run:
    """The golden run, with two errors carried along: of the worst entry, and in the root mean square."""

    def __init__(self, sides: Sides, rows: Mapping[str, Rows]) -> None:
        self.sides, self.rows = sides, rows
        shown = [sides.candidate.get(n) for n in sides.candidate.names() if n.startswith("train/") and "/B/" in n]
        self.precision: Precision = sides.shown(shown) if shown else sides.precision

    def after(self, last: int) -> dict[str, Trained]:
        shapes = {m: self._golden(last, "B", m).shape for m in self.rows}
        worst, usual = ({m: Moments.zeros(shape) for m, shape in shapes.items()} for _ in range(2))
        for t in range(1, last + 1):
            grads = {m: self._golden(t, "grad_B", m) for m in self.rows}
            errors = {m: self._errors(t, m, grads[m], ROUGHER * _rms([x.errors[0] for x in worst.values()]))
                      for m in grads}  # fmt: skip
            typical = {m: self._usual(t, m, grads[m], _rms([x.errors[0] for x in usual.values()])) for m in grads}
            worst = self._stepped(t, worst, grads, errors)
            usual = self._stepped(t, usual, grads, typical)
        return {
            m: Trained(self._golden(last, "B", m), worst[m].errors[0], usual[m].errors[0],
                       self._B_before(last, m), self.rows[m])
            for m in self.rows
        }  # fmt: skip

    def _golden(self, step: int, quantity: str, m: str) -> Array:
        return self.sides.golden.get(f"train/{step}/{quantity}/{m}")

    def _B_before(self, step: int, m: str) -> Array:
        name = f"train/{step - 1}/B/{m}"
        return self.sides.golden.get(name) if self.sides.golden.has(name) else 0.0 * self._golden(step, "grad_B", m)

    def _errors(self, t: int, m: str, grad: Array, drift: float) -> Array:
        """How far each entry of a gradient may be off, where B is off by `drift`."""
        noise = self.sides.network("grad_B", f"{t}/{m}", grad)
        return noise + self.rows[m].gradient_error(grad) + self._roughness(t, m) * drift

    def _usual(self, t: int, m: str, grad: Array, drift: float) -> Array:
        noise = self.sides.network.usual("grad_B", f"{t}/{m}", grad)
        return noise + self.rows[m].gradient_error(grad) + self._roughness(t, m) * drift

    def _roughness(self, t: int, m: str) -> float:
        """How much the gradient of a module changes for a change of all B: usual in golden's steps up to t.

        Each step's other samples change it too, so that this is more than B's own part.
        """
        found = []
        for s in range(2, t + 1):
            moved = _rms([self._golden(s - 1, "B", n) - self._B_before(s - 1, n) for n in self.rows])
            turned = rms(self._golden(s, "grad_B", m) - self._golden(s - 1, "grad_B", m))
            found.append(turned / moved if moved else 0.0)
        return float(np.median(found)) if found else 0.0

    def _stepped(
        self, t: int, state: Mapping[str, Moments], grads: Mapping[str, Array], errors: Mapping[str, Array]
    ) -> dict[str, Moments]:
        train, p = self.sides.train, self.precision
        most = train.get("max_grad_norm") or math.inf
        norm = math.sqrt(sum(float((x**2).sum()) for x in grads.values()))
        off = math.sqrt(sum(float((x**2).sum()) for x in errors.values())) / (norm or 1.0)
        off += 4.0 * p.storage + SAFETY * (math.sqrt(sum(x.size for x in grads.values())) + 1.0) * (
            p.accumulation + OWN
        )
        factor = clip_factor(norm, most)
        relative = off if norm * (1.0 + off) > most else 0.0
        settings: dict[str, Any] = {name: train[name] for name in ("eps", "weight_decay")}
        settings |= {"betas": tuple(train["betas"]), "lr": float(self.sides.golden.get("train/lr")[t - 1]), "step": t}
        stepped = {}
        for m, x in grads.items():
            after = step_with_errors(state[m], factor * x, factor * (errors[m] + relative * np.abs(x)), settings, p)
            stepped[m] = _limited(state[m], after, settings, p)
        return stepped


def _limited(before: Moments, after: Moments, settings: Mapping[str, Any], precision: Precision) -> Moments:
    """No update is longer than AdamW can make one, however its gradients are off: neither golden's nor another."""
    most = settings["lr"] * longest(settings["betas"], settings["step"])
    moved = np.abs(after.values[0] - before.values[0] * (1.0 - settings["lr"] * settings["weight_decay"]))
    unit = SAFETY * (precision.accumulation + OWN) + precision.storage
    rounding = 3.0 * unit * (np.abs(before.values[0]) + np.abs(after.values[0])) + precision.tiny
    apart = before.errors[0] + most * (1.0 + 8.0 * unit) + moved + rounding
    return Moments(after.values, (np.minimum(after.errors[0], apart), *after.errors[1:]))


def longest(betas: tuple[float, float], step: int) -> float:
    """The largest |m / c1| / sqrt(v / c2) after a step: both are means of its gradients (Cauchy and Schwarz)."""
    back = np.arange(step)
    first, second = ((1.0 - beta) * beta**back / (1.0 - beta**step) for beta in betas)
    return float(np.sqrt(np.sum(first**2 / second)))


def _rms(arrays: list[Array]) -> float:
    return rms(np.concatenate([x.ravel() for x in arrays])) if arrays else 0.0


def held(
    sides: Sides, stage: str, what: str, got: Array, right: Array, allowed: Array, usual: float, slips: list[Slip]
) -> Verdict:
    """Every entry within `allowed`, and in a low precision the root mean square of all within `usual`."""
    verdict = entries(stage, what, got, right, allowed, slips)
    if not verdict.passed or not sides.network.low:
        return verdict
    return both(verdict, root_mean_square(stage, what, got, right, usual, slips))


def judge_B(sides: Sides, step: int, m: str, got: Array, right: Trained) -> tuple[Verdict, list[str]]:
    """B by golden's own; and what would have passed too, so that nothing is known of it."""
    rows = right.rows
    turn = rows.turn if sides.candidate.has(f"A/{m}") else signed_permutation(*_unit_columns(got, right.B))
    # without A, its rows may have any order and signs: those that suit B best
    turned = got @ turn  # (d_out, r): its columns as golden's rows stand
    slips: list[Slip] = [
        (UNTRAINED, lambda: np.zeros_like(right.B)),
        ("it is B of the step before: the last step is missing", lambda: right.before),
        ("B holds s B: the scale is folded in", lambda: right.B * rows.scale),
        ("the update goes uphill", lambda: -right.B),
    ]

    def judged(B: Array) -> Verdict:
        return held(sides, "adamw", f"B of step {step}", B, right.B, right.error, rms(right.usual), slips)

    return judged(turned), [text for text, make in slips[:2] if judged(make()).passed]


def _unit_columns(*matrices: Array) -> list[Array]:
    """The columns of each matrix as rows of length 1 (or 0)."""
    lengths = [np.linalg.norm(x, axis=0) for x in matrices]
    return [(x / np.where(n > 0.0, n, 1.0)).T for x, n in zip(matrices, lengths, strict=True)]
