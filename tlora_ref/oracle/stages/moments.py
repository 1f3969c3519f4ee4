"""Rounding carried through a step of AdamW, entry by entry.

Adam divides by the root of its own second moment, so the first step is sign(g): where a gradient lies within its own
error, nothing is known of the update but its size. The bounds below say so by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.adamw import adamw_step
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import OWN, SAFETY


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


def update_with_errors(
    B: Array, m: Array, v: Array, settings: Mapping[str, Any], correction2: float, precision: Precision
) -> tuple[Array, Array]:
    """B after a step whose new moments are known, and how far its rounding may carry each entry.

    A candidate that keeps its moments in a lower precision than it updates with has rounded them afterwards.
    """
    lr, eps, correction1 = settings["lr"], settings["eps"], 1.0 - settings["betas"][0] ** settings["step"]
    unit, tiny = precision.storage + precision.accumulation + OWN, precision.tiny
    size = np.abs(m) / correction1
    root = np.sqrt(v / correction2) + eps
    # the roots that rounding leaves possible: v may lie at the end of the storage's range
    lost = np.sqrt(np.maximum(v * (1.0 - unit) - tiny, 0.0) / correction2) + eps
    most = (size * (1.0 + unit) + tiny / correction1) / lost
    gained = np.sqrt((v * (1.0 + unit) + tiny) / correction2) + eps
    least = np.maximum(size * (1.0 - unit) - tiny / correction1, 0.0) / gained
    decayed = B * (1.0 - lr * settings["weight_decay"])
    after = decayed - lr * m / correction1 / root
    rounding = np.maximum(most - size / root, size / root - least) + 6.0 * unit * most
    return after, lr * rounding + 2.0 * unit * (np.abs(B) + np.abs(after)) + tiny


def corrections(beta: float, step: int, precision: Precision) -> list[float]:
    """1 - beta^t, exact and as arithmetic in the precision's sums gives it, to the last bit of beta^t either way."""
    exact = 1.0 - beta**step
    if precision.accumulation <= OWN:
        return [exact]
    single = float(np.float32(beta) ** np.float32(step))
    low = [1.0 - single - k * precision.accumulation / 2.0 for k in (-1, 0, 1)]
    return [exact, *(value for value in low if value > 0.0)]


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
