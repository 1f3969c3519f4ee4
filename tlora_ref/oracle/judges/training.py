"""Judges of AdamW and of a run: rounding is carried through every step, entry by entry.

Adam divides by the root of its own second moment, so the first step is sign(g): where a gradient lies within its own
error, nothing is known of the update but its size. The bounds below say so by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.judges.bounds import OWN, SAFETY, Slip, entries, malformed, sum_error
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict

NAMES = ("B", "exp_avg", "exp_avg_sq")
L2 = "weight decay is added to the gradient (Adam with L2, not AdamW)"
TORCH: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


@dataclass(frozen=True)
class Moments:
    """B, exp_avg and exp_avg_sq after a step, and how far each may be off, entrywise."""

    values: tuple[Array, Array, Array]
    errors: tuple[Array, Array, Array]

    @staticmethod
    def zeros(shape: tuple[int, ...]) -> Moments:
        """Before the first step."""
        nothing = (np.zeros(shape), np.zeros(shape), np.zeros(shape))
        return Moments(nothing, nothing)


def step_with_errors(
    before: Moments, grad: Array, grad_error: Array, settings: Mapping[str, Any], precision: Precision
) -> Moments:
    """One AdamW step in float64, and the errors after it: those before, the gradient's, and this step's rounding."""
    B, m, v = before.values
    dB, dm, dv = before.errors
    step, lr, eps, (beta1, beta2) = settings["step"], settings["lr"], settings["eps"], settings["betas"]
    after = adamw_step(B, grad, m, v, **settings)
    unit, tiny = SAFETY * (precision.accumulation + OWN) + precision.storage, precision.tiny
    size_m = beta1 * np.abs(m) + (1 - beta1) * np.abs(grad)
    dm = beta1 * dm + (1 - beta1) * grad_error + unit * size_m + tiny
    dv = beta2 * dv + (1 - beta2) * grad_error * (2.0 * np.abs(grad) + grad_error) + 2.0 * unit * after[2] + tiny
    correct1, correct2 = 1.0 - beta1**step, 1.0 - beta2**step
    # 1 - beta^t loses digits when it is formed in the candidate's arithmetic
    unit1, unit2 = (unit + SAFETY * precision.accumulation / c for c in (correct1, correct2))
    root = np.sqrt(after[2] / correct2)
    lost = np.sqrt(np.maximum(after[2] - dv, 0.0) / correct2)  # the smallest root that the error leaves possible
    size = np.abs(after[1]) / correct1
    update = size / (root + eps)
    most = (size + dm / correct1) / (lost + eps)  # the largest update that the errors leave possible
    least = np.maximum(size - dm / correct1, 0.0) / (np.sqrt((after[2] + dv) / correct2) + eps)
    drift = np.maximum(most - update, update - least)
    rounding = (2.0 * unit1 + unit2 + 2.0 * unit) * update
    dB = dB + lr * (drift + rounding) + 3.0 * unit * (np.abs(B) + np.abs(after[0])) + tiny
    return Moments((after[0], after[1], after[2]), (dB, dm, dv))


def judge_adamw_step(
    got: object,
    *,
    B: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    switches: Switches,
    precision: Precision,
    grad_error: float = 0.0,
    others: Sequence[tuple[str, dict[str, Any]]] = (),
) -> list[Verdict]:
    """One step of AdamW from given moments: B, exp_avg, exp_avg_sq.

    grad_error : how far every entry of the gradient may be off, relatively
    others : further slips, as what each puts for `grad` or `lr`
    """
    if not isinstance(got, tuple | list) or len(got) != 3:
        said = f"expected (B, exp_avg, exp_avg_sq), got {type(got).__name__}"
        return [malformed("adamw_step", "B, exp_avg, exp_avg_sq", said)]
    weight, m, v = (np.asarray(x, np.float64) for x in (B, exp_avg, exp_avg_sq))
    nothing = np.zeros_like(weight)
    before = Moments((weight, m, v), (nothing, nothing, nothing))
    settings: dict[str, Any] = {"step": step, "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    g = np.asarray(grad, np.float64)
    after = step_with_errors(before, g, grad_error * np.abs(g), settings, precision)
    slips = adamw_slips(weight, m, v, g, **settings)
    for text, change in reversed(others):
        arrays = {"grad": g, **settings, **change}
        made = dict(zip(NAMES, adamw_step(weight, arrays.pop("grad"), m, v, **arrays), strict=True))
        for name in NAMES:
            slips[name].insert(0, (text, lambda made=made, name=name: made[name]))  # type: ignore[misc]
    # the moments first: a wrong one makes B wrong
    return [
        entries("adamw_step", NAMES[i], got[i], after.values[i], after.errors[i], slips[NAMES[i]]) for i in (1, 2, 0)
    ]


def adamw_slips(
    B: Array,
    m: Array,
    v: Array,
    g: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> dict[str, list[Slip]]:
    """What each of the three would be after each known slip."""
    b1, b2 = betas
    m1, v1 = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    c1, c2 = 1 - b1**step, 1 - b2**step
    folded = g + weight_decay * B
    return {
        "exp_avg": [
            ("exp_avg takes the whole gradient, without 1 - beta1", lambda: b1 * m + g),
            ("the betas are swapped", lambda: b2 * m + (1 - b2) * g),
            (L2, lambda: b1 * m + (1 - b1) * folded),
            ("beta1 weighs the gradient: 1 - beta1 and beta1 are swapped", lambda: (1 - b1) * m + b1 * g),
            ("exp_avg is not updated", lambda: m),
            ("exp_avg is stored after bias correction", lambda: m1 / c1),
        ],
        "exp_avg_sq": [
            ("exp_avg_sq takes the gradient, not its square", lambda: b2 * v + (1 - b2) * g),
            ("exp_avg_sq takes |g|, not its square", lambda: b2 * v + (1 - b2) * np.abs(g)),
            ("the betas are swapped", lambda: b1 * v + (1 - b1) * g * g),
            ("exp_avg_sq takes the whole square, without 1 - beta2", lambda: b2 * v + g * g),
            (L2, lambda: b2 * v + (1 - b2) * folded**2),
            ("exp_avg_sq keeps its largest value (AMSGrad)", lambda: np.maximum(v, v1)),
            ("exp_avg_sq is not updated", lambda: v),
            ("exp_avg_sq is stored after bias correction", lambda: v1 / c2),
        ],
        "B": _weight_slips(B, g, m1, v1, betas, step, lr, eps, weight_decay),
    }


def _weight_slips(
    B: Array, g: Array, m: Array, v: Array, betas: Any, step: int, lr: float, eps: float, weight_decay: float
) -> list[Slip]:
    """What B would be after each known slip; m and v are the right moments after the step."""
    kept = B * (1 - lr * weight_decay)
    c1, c2 = 1 - betas[0] ** step, 1 - betas[1] ** step

    def moved(mean: Array, square: Array, *, of: Array = kept, e: float = eps) -> Array:
        return of - lr * mean / (np.sqrt(square) + e)

    def corrected(t: int) -> Array:
        return moved(m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)) if t > 0 else np.full_like(B, np.inf)

    return [
        ("there is no bias correction", lambda: moved(m, v)),
        ("exp_avg is not bias-corrected", lambda: moved(m, v / c2)),
        ("exp_avg_sq is not bias-corrected", lambda: moved(m / c1, v)),
        ("eps stands inside the root", lambda: kept - lr * m / c1 / np.sqrt(v / c2 + eps)),
        ("eps is added before the bias correction", lambda: moved(m / c1 * np.sqrt(c2), v)),
        ("the weight is not decayed", lambda: moved(m / c1, v / c2, of=B)),
        ("weight decay is not multiplied by lr", lambda: moved(m / c1, v / c2, of=B * (1 - weight_decay))),
        ("weight decay is applied twice", lambda: moved(m / c1, v / c2, of=B - 2 * lr * weight_decay * B)),
        ("weight decay is applied after the update", lambda: moved(m / c1, v / c2, of=B) * (1 - lr * weight_decay)),
        ("the step is counted from 0: bias correction is off by one", lambda: corrected(step - 1)),
        ("bias correction is one step ahead", lambda: corrected(step + 1)),
        ("eps is left out", lambda: moved(m / c1, np.maximum(v / c2, 1e-300), e=0.0)),
        ("the gradient stands for exp_avg: no momentum", lambda: moved(g, v / c2)),
        ("the update is not divided by the root of exp_avg_sq", lambda: kept - lr * m / c1),
        ("the update is divided by exp_avg_sq, not by its root", lambda: kept - lr * m / c1 / (v / c2 + eps)),
        ("plain gradient descent, with weight decay", lambda: kept - lr * g),
        ("the update goes uphill", lambda: kept + lr * (m / c1) / (np.sqrt(v / c2) + eps)),
        ("the update is not made", lambda: B),
    ]


def judge_train(
    got: object,
    *,
    A: Array,
    x: Sequence[Array],
    dy: Sequence[Array],
    scale: float,
    lr: Sequence[float],
    switches: Switches,
    precision: Precision,
) -> list[Verdict]:
    """K steps from B = 0: A keeps every bit, and B is what AdamW makes of Eq. 2's gradients."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        return [malformed("train", "A and B", f"expected (A, B), got {type(got).__name__}")]
    A = np.asarray(A, np.float64)
    state = Moments.zeros((np.asarray(dy[0]).shape[1], len(A)))
    gradients = []
    for t, rate in enumerate(lr):
        X, G = np.asarray(x[t], np.float64), np.asarray(dy[t], np.float64)
        gradients.append(low_rank.gradient_B(G.T @ X, A, scale))
        magnitude = 2.0 * abs(scale) * np.abs(G).T @ (np.abs(X) @ np.abs(A).T)
        error = sum_error(magnitude, max(X.shape), precision) + 4.0 * precision.storage * magnitude
        state = step_with_errors(state, gradients[-1], error, {**TORCH, "step": t + 1, "lr": rate}, precision)
    moved = entries("train", "A is frozen", got[0], A, np.zeros_like(A))
    if not moved.passed and moved.cause is None:
        moved = replace(moved, cause="A was trained: TLoRA freezes it")
    B, allowed = state.values[0], state.errors[0]
    final = entries("train", "B", got[1], B, allowed, _run_slips(gradients, scale, list(lr)))
    return [moved, final]


def _run_slips(gradients: list[Array], scale: float, lr: list[float]) -> list[Slip]:
    """What B would be after each known slip in the run."""

    def run(factor: float = 1.0, *, renew: bool = False, **changes: Any) -> Array:
        values: tuple[Array, ...] = tuple(np.zeros_like(gradients[0]) for _ in range(3))
        for t, (g, rate) in enumerate(zip(gradients, lr, strict=True)):
            if renew:
                values = (values[0], np.zeros_like(g), np.zeros_like(g))
            settings = {**TORCH, "step": 1 if renew else t + 1, "lr": rate, **changes}
            values = adamw_step(values[0], g * factor, values[1], values[2], **settings)
        return values[0]

    def descent() -> Array:
        return -sum((g * r for g, r in zip(gradients, lr, strict=True)), start=np.zeros_like(gradients[0]))

    return [
        ("the moments are forgotten between the steps", lambda: run(renew=True)),
        ("the weight is not decayed", lambda: run(weight_decay=0.0)),
        ("the step stays at 1", lambda: run(step=1)),
        ("the learning rate of the first step is used throughout", lambda: run(lr=lr[0])),
        ("the learning rate of the last step is used throughout", lambda: run(lr=lr[-1])),
        ("plain gradient descent", descent),
        ("B is not trained", lambda: np.zeros_like(gradients[0])),
        ("the update goes uphill", lambda: run(-1.0)),
        ("the scale is left out of the gradient", lambda: run(1.0 / scale if scale else 1.0)),
        ("the scale is applied twice in the gradient", lambda: run(scale)),
        ("B holds s B: the scale is folded in", lambda: run() * scale),
    ]
