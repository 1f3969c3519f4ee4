"""Judges of the adapted module: its output, the gradient of B, the merged weight."""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.judges.bounds import Slip, entries, stored, sum_error
from tlora_ref.oracle.precision import Precision
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


def judge_grad_b(
    got: object, *, x: Array, dy: Array, A: Array, B: Array, scale: float, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Eq. 2: dL/dB = s dy^T (x A^T)."""
    x, dy, A = (np.asarray(m, np.float64) for m in (x, dy, A))
    expected = low_rank.gradient_B(dy.T @ x, A, scale)  # (d_out, r)
    magnitude = abs(scale) * np.abs(dy).T @ (np.abs(x) @ np.abs(A).T)
    kept = 3.0 * precision.storage * abs(scale) * np.abs(dy).T @ np.abs(x @ A.T)
    # the other order, (dy^T x) A^T, stores the (d_out, d_in) product
    kept += precision.storage * abs(scale) * np.abs(dy.T @ x) @ np.abs(A).T
    allowed = sum_error(2.0 * magnitude, max(x.shape), precision) + stored(expected, precision) + kept
    return [entries("grad_b", "entries", got, expected, allowed, gradient_slips(expected, scale, len(x), len(A)))]


def gradient_slips(expected: Array, scale: float, tokens: int, r: int) -> list[Slip]:
    """What dL/dB would be after each known slip, from the right one."""
    return [
        ("the scale is left out (Eq. 2 as printed)", lambda: expected / scale if scale else expected),
        ("the scale is applied twice", lambda: expected * scale),
        ("the scale is not divided by the rank: alpha instead of alpha / r", lambda: expected * r),
        ("the scale is divided by the rank twice", lambda: expected / r),
        ("the gradient is divided by the number of tokens", lambda: expected / tokens),
        ("the gradient is multiplied by the number of tokens", lambda: expected * tokens),
        ("the sign is flipped", lambda: -expected),
        ("the gradient is zero", lambda: np.zeros_like(expected)),
        ("the gradient is doubled", lambda: 2.0 * expected),
        ("the gradient is halved", lambda: 0.5 * expected),
    ]


def judge_merge(
    got: object, *, W: Array, A: Array, B: Array, scale: float, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Eq. 1, merged: W' = W + s B A."""
    W, A, B = (np.asarray(m, np.float64) for m in (W, A, B))
    expected = low_rank.merged_weight(W, A, B, scale)
    delta = expected - W
    magnitude = abs(scale) * np.abs(B) @ np.abs(A)
    allowed = sum_error(magnitude, len(A), precision) + stored(expected, precision)
    allowed = allowed + stored(W, precision) + 2.0 * stored(delta, precision)
    slips: list[Slip] = [
        ("the scale alpha / r is left out", lambda: W + (delta / scale if scale else delta)),
        ("the scale is applied twice", lambda: W + delta * scale),
        ("the scale is not divided by the rank: alpha instead of alpha / r", lambda: W + delta * len(A)),
        ("the scale is divided by the rank twice", lambda: W + delta / len(A)),
        ("the scale is divided by the root of the rank (rsLoRA)", lambda: W + delta * math.sqrt(len(A))),
        ("the adapter is not merged", lambda: W),
        ("the update is subtracted", lambda: W - delta),
        ("the update is merged twice", lambda: W + 2.0 * delta),
        ("the frozen weight is left out", lambda: delta),
        ("the scale multiplies the whole weight", lambda: (W + (delta / scale if scale else delta)) * scale),
    ]
    return [entries("merge", "entries", got, expected, allowed, slips)]
