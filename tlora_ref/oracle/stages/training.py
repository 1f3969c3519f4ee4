"""A short run in which B alone trains: judged by `check` and vectors alone; a trace has its steps one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import Slip, entries, malformed, sum_error
from tlora_ref.oracle.stages.moments import Moments, step_with_errors
from tlora_ref.oracle.stages.step_rates import judge_rates
from tlora_ref.oracle.verdict import Verdict

TORCH: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


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
    gradients, updates = list[Array](), list[Array]()
    for t, rate in enumerate(lr):
        X, G = np.asarray(x[t], np.float64), np.asarray(dy[t], np.float64)
        gradients.append(low_rank.gradient_B(G.T @ X, A, scale))
        magnitude = 2.0 * abs(scale) * np.abs(G).T @ (np.abs(X) @ np.abs(A).T)
        error = sum_error(magnitude, max(X.shape), precision) + 4.0 * precision.storage * magnitude
        before, decay = state.values[0], 1.0 - rate * TORCH["weight_decay"]
        state = step_with_errors(state, gradients[-1], error, {**TORCH, "step": t + 1, "lr": rate}, precision)
        updates = [*(update * decay for update in updates), state.values[0] - before * decay]
    moved = entries("train", "A is frozen", got[0], A, np.zeros_like(A))
    if not moved.passed and moved.cause is None:
        moved = replace(moved, cause="A was trained: TLoRA freezes it")
    B, allowed = state.values[0], state.errors[0]
    final = entries("train", "B", got[1], B, allowed, run_slips(gradients, scale, list(lr)))
    rates = None
    if final.passed:
        whole = np.asarray(got[1], np.float64).reshape(B.shape)
        rates = judge_rates(whole, updates, allowed, TORCH["betas"], precision)
    return [moved, final] if rates is None else [moved, final, rates]


def run_slips(gradients: list[Array], scale: float, lr: list[float]) -> list[Slip]:
    """What B would be after each known slip in the run."""

    def run(factor: float = 1.0, *, renew: bool = False, faster: float = 1.0, **changes: Any) -> Array:
        values: tuple[Array, ...] = tuple(np.zeros_like(gradients[0]) for _ in range(3))
        for t, (g, rate) in enumerate(zip(gradients, lr, strict=True)):
            if renew:
                values = (values[0], np.zeros_like(g), np.zeros_like(g))
            settings = {**TORCH, "step": 1 if renew else t + 1, "lr": faster * rate, **changes}
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
        ("the learning rate is halved", lambda: run(faster=0.5)),
        ("the learning rate is doubled", lambda: run(faster=2.0)),
        ("plain gradient descent", descent),
        ("B is not trained", lambda: np.zeros_like(gradients[0])),
        ("the update goes uphill", lambda: run(-1.0)),
        ("the scale is left out of the gradient", lambda: run(1.0 / scale if scale else 1.0)),
        ("the scale is applied twice in the gradient", lambda: run(scale)),
        ("B holds s B: the scale is folded in", lambda: run() * scale),
    ]
