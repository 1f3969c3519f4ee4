"""How much of an error goes one way: its share along a golden quantity, or along a part of it.

Rounding is as often up as down, so that little of it is left in a sum over many entries. A mistake goes one way.
"""

from __future__ import annotations

import numpy as np

from tlora_ref.backend import Array

DIAGONAL, OFF = "diagonal", "off the diagonal"


def parts_of(C: Array) -> dict[str, Array]:
    """The diagonal of C (d, d) and all else, each (d, d), where it is not zero."""
    diagonal = np.diag(np.diag(C))
    found = {DIAGONAL: diagonal, OFF: C - diagonal}
    return {name: part for name, part in found.items() if part.any()}


def share(error: Array, along: Array) -> float:
    """<error, along> / <along, along>: by how much `along` is too large, by least squares."""
    size = float(np.abs(along).max(initial=0.0)) or 1.0  # squares of what is tiny would vanish
    unit = along / size
    return float((error / size * unit).sum() / (unit * unit).sum())


def share_of_sum(got: Array, golden: Array) -> float:
    """By how much the sum of numbers is too large, of the sum of the golden ones' sizes."""
    return float(np.sum(got - golden)) / (float(np.abs(golden).sum()) or 1.0)
