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
