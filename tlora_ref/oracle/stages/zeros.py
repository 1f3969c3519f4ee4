"""Entries that are exactly zero in a low precision, and should not be.

Rounding to nearest makes no zero but of what is below the storage's smallest number: it keeps the first digits of
all else. Where a ReLU switches off a unit that is barely on in the golden run, a few are.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.stages.bounds import rms
from tlora_ref.oracle.stages.network import UNIT16, Network
from tlora_ref.oracle.verdict import Verdict

#: What is smaller than this share of the root mean square may be zero: a thousandth.
SMALL = UNIT16 / 8.0
#: Of so many entries at least, this share may be zero more than are small in what is right.
ENTRIES, MOST = 200, 0.01
CUT = "small entries are cut to zero"


def judge_zeros(network: Network, stage: str, what: str, pairs: Iterable[tuple[Array, Array]]) -> Verdict | None:
    """How many entries of arrays are zero, against those that may be.

    pairs : (got, right), each within its bounds; rows may be in another order
    None in a higher precision, or where there are few entries.
    """
    counts = [(int((got == 0.0).sum()), _small(right, network), got.size) for got, right in pairs]
    zeros, small, size = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    if not network.low or size < ENTRIES:
        return None
    more = max(0, zeros - small) / size
    verdict = Verdict(stage, f"zeros in {what}", more <= MOST, more, MOST, None, zeros / size, small / size)
    return verdict if verdict.passed else verdict.blamed([(CUT, 0.0)])


def _small(right: Array, network: Network) -> int:
    """How many entries may be zero; below `tiny` the storage runs out of digits."""
    return int((np.abs(right) <= max(SMALL * rms(right), network.precision.tiny)).sum())
