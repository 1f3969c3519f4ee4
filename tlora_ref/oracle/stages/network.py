"""How far a quantity of the whole network may be from the golden one: what other arithmetic costs, as it was measured.

In float64 and float32: a multiple of this library's own float32 deviation, and what plain sums over the vocabulary
lose. In bfloat16 and its like: multiples of the deviation of a run in emulated bfloat16, of single entries and of the
root mean square of many. Rounding averages out, mistakes do not: the latter sees what no entry shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import Slip, both, entries, rms, root_mean_square
from tlora_ref.oracle.traces.noise import BFLOAT16, FLOAT32, RELATIVE, SUMS
from tlora_ref.oracle.verdict import Verdict

#: A candidate in float32 may be this many times as far away as the measured float32 run is.
NETWORK = 16.0

#: One in bfloat16 may be this many times as far away as the measured bfloat16 runs: in its worst entry, in the root
#: mean square of an array, in a single number, in the root mean square of several. Right runs that round elsewhere
#: (norms and softmax in the storage, other orders) were 4, 13 and 3 times as far in the last three; in the worst entry
#: 7 times, and 10 where rounding switches a unit of a ReLU.
ENTRY, ARRAY, NUMBER, NUMBERS = 16.0, 6.0, 16.0, 6.0

#: Roundings of the two runs that were measured.
UNIT32, UNIT16 = 2.0**-23, 2.0**-7

#: Where the golden trace measured no noise: this many roundings of the largest entry.
UNMEASURED = 2000.0

#: What is usual in bfloat16 is never taken for less than this share: a sixteenth of a rounding.
LEAST = UNIT16 / 16.0

#: Arrays of fewer entries are judged entry by entry alone.
FEW = 16

Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


class Network:
    """The noise that a golden trace measured, for a candidate of one precision."""

    def __init__(self, noise: Measured, precision: Precision) -> None:
        self.noise, self.precision = noise, precision
        self.unit = max(precision.storage, precision.accumulation, precision.product)
        self.low = self.unit > UNIT32

    def said(self) -> str:
        """How the bounds are made, for a report."""
        if FLOAT32 not in self.noise:
            return f"{UNMEASURED:g} roundings of the largest entry (the golden trace measured no noise)"
        if not self.low:
            return (
                f"{NETWORK:g} times the golden run's own deviation in float32, times {self.unit / UNIT32:.3g} for "
                f"{self.precision.name}, and what plain sums over the vocabulary lose"
            )
        return (
            f"the golden run's own deviation in bfloat16, times {self.unit / UNIT16:.3g} for {self.precision.name}: "
            f"{ENTRY:g} times in an entry, {ARRAY:g} in the root mean square of an array, {NUMBER:g} in a number"
        )

    def kept(self, got: object) -> float:
        """The relative rounding of the storage that `got` shows."""
        return kept_in(self.precision, got)

    def __call__(self, quantity: str, key: str, golden: Array, got: object = None) -> float:
        """A bound on the error of every entry; `got` shows how it was stored."""
        size = float(np.abs(golden).max(initial=0.0))
        measured = self.noise.get(BFLOAT16 if self.low else FLOAT32, {}).get(quantity, {})
        if key not in measured:
            return UNMEASURED * self.unit * size + self.precision.tiny
        rounding = (self.precision.storage if got is None else self.kept(got)) * size + self.precision.tiny
        sums = self.noise.get(SUMS, {}).get(quantity, {}).get(key, 0.0) * self.precision.accumulation / UNIT32
        # one number is sometimes right by luck: no key is given less than a tenth of what is usual for its quantity
        usual = float(np.median(list(measured.values())))
        if not self.low:
            noise = max(measured[key], 0.1 * usual, UNIT32 * size)
            return NETWORK * noise * self.unit / UNIT32 + sums + rounding
        if np.ndim(golden) == 0:
            noise = NUMBER * max(self._relative(quantity)[key], self._usual(quantity)) * size
        else:
            noise = ENTRY * max(measured[key], 0.1 * usual)
        return noise * self.unit / UNIT16 + sums + rounding

    def _relative(self, quantity: str) -> Mapping[str, float]:
        return self.in_bfloat16(RELATIVE.format(quantity))

    def in_bfloat16(self, name: str) -> Mapping[str, float]:
        """What the golden run in bfloat16 measured under a name, by key; nothing for a higher precision."""
        return self.noise.get(BFLOAT16, {}).get(name, {}) if self.low else {}

    def _usual(self, quantity: str) -> float:
        """The root mean square of the relative deviations of all keys of a quantity, and at least LEAST.

        Numbers of few modules share their deviation (that of the loss): together they may be right by luck.
        """
        return max(LEAST, rms(np.array(list(self._relative(quantity).values()))))

    def array(
        self,
        stage: str,
        what: str,
        quantity: str,
        key: str,
        got: Array,
        golden: Array,
        slips: Iterable[Slip] = (),
        more: float = 0.0,
    ) -> Verdict:
        """An array held against the golden one: every entry, and in a low precision the root mean square of all.

        more : what every entry may be off by for other reasons
        """
        verdict = entries(stage, what, got, golden, self(quantity, key, golden, got) + more, slips)
        relative = self._relative(quantity)
        if not verdict.passed or np.size(golden) < FEW or key not in relative:
            return verdict
        allowed = self.usual(quantity, key, golden) + self.kept(got) * rms(golden) + self.precision.tiny + more
        return both(verdict, root_mean_square(stage, what, got, golden, allowed, slips))

    def usual(self, quantity: str, key: str, golden: Array) -> float:
        """A bound on the root mean square of the noise of an array in a low precision; else that of every entry."""
        relative = self._relative(quantity)
        if key not in relative:
            return self(quantity, key, golden)
        # an array has entries enough to be measured by itself; where it was right by luck, half of what is usual
        return ARRAY * max(relative[key], 0.5 * self._usual(quantity)) * self.unit / UNIT16 * rms(golden)

    def numbers(self, stage: str, what: str, quantity: str, pairs: Mapping[str, tuple[Any, Any]]) -> Verdict | None:
        """{key: (got, golden)} of one quantity: the root mean square of their relative errors, in a low precision.

        None where that is in order, or cannot be told: each number has its own verdict.
        """
        keys = [key for key, (_, golden) in pairs.items() if key in self._relative(quantity) and golden != 0]
        if len(keys) < 2:
            return None
        got, golden = (np.array([float(pairs[key][i]) for key in keys]) for i in (0, 1))
        allowed = NUMBERS * self._usual(quantity) * self.unit / UNIT16 + self.kept(got)
        verdict = root_mean_square(stage, what, got / golden, np.ones(len(keys)), allowed)
        return None if verdict.passed else verdict


def kept_in(precision: Precision, got: object) -> float:
    """The relative rounding of the storage that `got` shows: finer where it holds what the precision's does not."""
    own, array = precision.storage, np.asarray(got, np.float64)
    with np.errstate(over="ignore"):  # beyond float16's range
        return own if own <= UNIT32 or np.array_equal(precision.rounded(array), array) else UNIT32
