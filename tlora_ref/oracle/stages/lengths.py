"""The lengths of A's rows in a low precision.

A row of length 1 whose entries are rounded is off by a sum of independent roundings, most of which cancel: a row of 32
entries in bfloat16 by some 0.05 %, the mean of many rows by less. Rows that are all half a percent too long are seen.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.directions import DEVIATIONS
from tlora_ref.oracle.stages.network import UNIT32, kept_in
from tlora_ref.oracle.verdict import Verdict

MEAN = "mean length of rows"


def judge_lengths(matrices: Mapping[str, Array], precision: Precision, rounding: float) -> list[Verdict]:
    """The row that is most off length 1, and the mean over the rows of all matrices.

    matrices : {module: A (r, d_in)}, each as it is stored
    rounding : how far a row may be off before it is stored
    Nothing where the storage is no low one, or there is no row.
    """
    found = [_lengths(A, precision) for A in matrices.values() if len(A)]
    if precision.storage <= UNIT32 or not found:
        return []
    off, deviation = (np.concatenate(parts) for parts in zip(*found, strict=True))  # (rows,), (rows,)
    allowed = DEVIATIONS * deviation + rounding
    row, mean = int(np.argmax(np.abs(off) / allowed)), float(off.mean())
    most = DEVIATIONS * float(np.linalg.norm(deviation)) / len(off) + rounding
    index = (row,) if len(matrices) == 1 else None
    verdicts = [
        _verdict("length of a row", float(off[row]), float(allowed[row]), index),
        _verdict(MEAN, mean, most, None),
    ]
    if all(v.passed for v in verdicts) or (np.abs(off - mean) > allowed).any():
        return verdicts
    text = f"the rows of A are all {'longer' if mean > 0.0 else 'shorter'} than 1"
    return [v if v.passed else v.blamed([(text, 0.0)]) for v in verdicts]


def _lengths(A: Array, precision: Precision) -> tuple[Array, Array]:
    """By how much each row (r,) is longer than 1, and the standard deviation that rounding its entries gives that."""
    spacing = precision.spacing(A, kept_in(precision, A))
    lengths = np.linalg.norm(A, axis=1)
    # to first order a row is longer by the sum of a_i e_i over its length, e_i even within half a spacing
    deviation = np.linalg.norm(A * spacing, axis=1) / np.sqrt(12.0) / np.where(lengths > 0.0, lengths, 1.0)
    return lengths - 1.0, deviation


def _verdict(what: str, off: float, allowed: float, index: tuple[int, ...] | None) -> Verdict:
    return Verdict("initialize_a", what, abs(off) <= allowed, abs(off), allowed, index, 1.0 + off, 1.0, detects=allowed)
