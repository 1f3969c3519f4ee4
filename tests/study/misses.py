"""How often the interval of a few normal differences whose mean is zero leaves zero out.

python -m tests.study.misses          # half a minute; its figure is `MISSES_OF_FIVE` of tlora_ref/study/analysis.py
"""

from __future__ import annotations

import numpy as np

from tlora_ref.study.analysis import LEAST_SEEDS, interval

SEED, TRIES = 42, 4000


def misses(tries: int, seeds: int = LEAST_SEEDS, seed: int = SEED) -> float:
    """The share of `tries` intervals of `seeds` differences that do not hold zero."""
    rng = np.random.default_rng(seed)
    found = (interval(rng.standard_normal(seeds)) for _ in range(tries))
    return sum(low > 0 or high < 0 for low, high in found) / tries


if __name__ == "__main__":
    print(f"{LEAST_SEEDS} differences, {TRIES} tries: {misses(TRIES):.3f}")
