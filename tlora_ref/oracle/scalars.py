"""What counts as a number.

One that comes in an array of one entry, shape (1,), is a number: some frameworks and formats know no other. In a run's
trace one that is larger than LARGEST is none, and neither is an infinity or a NaN.
"""

from __future__ import annotations

import numpy as np

from tlora_ref.backend import Array

#: Beyond this nothing is that a run computes. What a judge makes of it, squares and products, would overflow.
LARGEST = 1e100


def usable(array: Array) -> Array:
    """Where an array of a trace holds a number that can be computed with."""
    finite = np.asarray(np.isfinite(array))  # float32 and less hold nothing that is finite and larger
    return finite & (np.abs(array) <= LARGEST) if array.dtype == np.float64 else finite


def unwrapped(array: Array, shape: tuple[object, ...] | None) -> Array:
    """`array` as a number, of shape (), where `shape` asks for one and it holds one on one axis; else as it is."""
    return array.reshape(()) if shape == () and array.shape == (1,) else array
