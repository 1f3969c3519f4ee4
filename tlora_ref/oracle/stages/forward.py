"""The adapted module's output (Eq. 1). A trace records no outputs: this one is judged by `check` and vectors alone."""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import Slip, entries, stored, sum_error
from tlora_ref.oracle.verdict import Verdict


def judge_forward(
    got: object, *, x: Array, W: Array, A: Array, B: Array, scale: float, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Eq. 1: y = x W^T + s (x A^T) B^T. Either product may be stored before they are added."""
    x, W, A, B = (np.asarray(m, np.float64) for m in (x, W, A, B))
    base, low = x @ W.T, low_rank.adapted_output(x, np.zeros_like(W), A, B, scale)
    magnitude = np.abs(x) @ np.abs(W).T
    low_magnitude = abs(scale) * (np.abs(x) @ np.abs(A).T) @ np.abs(B).T
    k = max(W.shape[1], A.shape[0])
    # h = x A^T (and s h, or s B) may be stored as well: one rounding of each factor
    kept = precision.storage * 3.0 * abs(scale) * np.abs(x @ A.T) @ np.abs(B).T
    allowed = (
        sum_error(magnitude + 2.0 * low_magnitude, k, precision)
        + stored(base, precision)
        + stored(low, precision)
        + stored(base + low, precision)
        + kept
    )
    slips: list[Slip] = [
        ("the scale alpha / r is left out", lambda: base + (low / scale if scale else low)),
        ("the scale is applied twice", lambda: base + low * scale),
        ("the scale is not divided by the rank: alpha instead of alpha / r", lambda: base + low * len(A)),
        ("the scale is divided by the rank twice", lambda: base + low / len(A)),
        ("the scale is divided by the root of the rank (rsLoRA)", lambda: base + low * math.sqrt(len(A))),
        ("the adapter is left out", lambda: base),
        ("the frozen weight is left out", lambda: low),
        ("the adapter is subtracted", lambda: base - low),
        ("the adapter is added twice", lambda: base + 2.0 * low),
        ("the scale multiplies the whole output", lambda: (base + (low / scale if scale else low)) * scale),
    ]
    return [entries("forward", "entries", got, base + low, allowed, slips)]
