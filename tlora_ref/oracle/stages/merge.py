"""Stage "merge" (Eq. 1): W' = W + s B A after the last step.

Judged by the candidate's own A, B and scale; W is the model's, or the golden merge undone.
"""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import Finding
from tlora_ref.oracle.stages.bounds import Slip, entries, stored, sum_error
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.verdict import Verdict


def findings(sides: Sides) -> list[Finding]:
    """W' from the candidate's own A, B and scale; W_0 from the model, or from the golden merge undone."""
    found, c = [], sides.candidate
    last = max([*c.numbered("train", "B"), int(sides.train.get("steps") or 0)])
    for m in sides.golden.modules("merged"):
        A = sides.A_before(last + 1, m)
        names = [f"merged/{m}", f"scale/{m}", *([f"train/{last}/B/{m}"] if last else [])]
        if A is None or not all(map(c.has, names)):
            found.append(sides.skipped("merge", m, "the merged weight, A, B or the scale is not recorded"))
            continue
        W = _frozen_weight(sides, m)
        if W is None:
            found.append(sides.skipped("merge", m, "needs the weights: give --checkpoint"))
            continue
        got, scale = c.get(names[0]), float(c.get(names[1]))
        B = c.get(names[2]) if last else np.zeros((len(W), len(A)))
        judged = judge_merge(got, W=W, A=A, B=B, scale=scale, switches=sides.switches, precision=sides.precision)
        found += [sides.own("merge", m, verdict) for verdict in judged]
    return found


def _frozen_weight(sides: Sides, m: str) -> Array | None:
    if (W := sides.weight(m)) is not None:
        return W
    g, last = sides.golden, _steps(sides)
    if last == 0:
        return g.get(f"merged/{m}")  # B is zero: merged is W_0
    A, B, scale = f"A/{m}" if sides.switches.freeze_A else f"train/{last}/A/{m}", f"train/{last}/B/{m}", f"scale/{m}"
    if not all(map(g.has, (A, B, scale))):
        return None
    return g.get(f"merged/{m}") - float(g.get(scale)) * (g.get(B) @ g.get(A))


def _steps(sides: Sides) -> int:
    """How many steps the golden run trained for."""
    return int(sides.golden.manifest.train.get("steps") or 0)


def judge_merge(
    got: object, *, W: Array, A: Array, B: Array, scale: float, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Eq. 1, merged: W' = W + s B A."""
    W, A, B = (np.asarray(m, np.float64) for m in (W, A, B))
    expected = low_rank.merged_weight(W, A, B, scale)
    delta = expected - W
    magnitude = abs(scale) * np.abs(B) @ np.abs(A)
    allowed = sum_error(magnitude, len(A), precision) + stored(expected, precision)
    # s B (or s A) may be stored before the product
    allowed = allowed + stored(W, precision) + 2.0 * stored(delta, precision) + precision.storage * magnitude
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
