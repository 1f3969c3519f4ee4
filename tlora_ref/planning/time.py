"""Time of calibration and of initialisation: their operations counted, and this machine's rate measured."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import MemoryPlan

#: Of the rate of bare products, what calibration reaches on the whole.
EFFICIENCY = 0.75


@dataclass(frozen=True)
class TimePlan:
    """About how long the work before training takes in float32.

    Attributes
    ----------
    tokens : of a sample, no more than the model's context has
    flop : {"calibration": ..., "initialisation": ...}, floating-point operations
    flop_per_second : of bare float32 products, as measured; EFFICIENCY of it is reckoned with
    hours : {"calibration": ..., "initialisation": ...}
    """

    tokens: int
    flop: dict[str, float]
    flop_per_second: float
    hours: dict[str, float]

    @property
    def gflop_per_second(self) -> float:
        """The measured rate in thousands of millions."""
        return self.flop_per_second / 1e9

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def plan_time(memory: MemoryPlan, *, samples: int = 32, tokens: int = 512, workers: int = 1) -> TimePlan:
    """About how long this machine takes to calibrate on `samples` samples of `tokens` tokens and to initialise.

    workers : so many machines like this one calibrate side by side

    Raises
    ------
    ConfigError
        for a count below 1.
    """
    for name, value in (("samples", samples), ("tokens", tokens), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: expected at least 1")
    tokens = memory.sample_tokens(tokens)
    flop, rate = operations(memory, samples, tokens), product_rate()
    hours = {name: number / (EFFICIENCY * rate) / 3600 for name, number in flop.items()}
    hours["calibration"] /= workers
    return TimePlan(tokens, flop, rate, hours)


def operations(memory: MemoryPlan, samples: int, tokens: int) -> dict[str, float]:
    """Floating-point operations of calibration and of initialisation, the latter's counted twice for float64.

    Calibration: every weight matrix forth and back, dW of every target, half of every X^T X. Left out: attention's own
    products, a few percent at lengths far below the width. Initialisation: W C, its reduction to a square matrix, and
    the SVD of that, which takes 22 n^3.
    """
    family, settings, shapes = memory.family, memory.settings, memory.shapes
    all_shapes = family.tensor_shapes(settings)
    linear = sum(int(np.prod(all_shapes[f"{m}.weight"], dtype=np.int64)) for m in family.linear_modules(settings))
    if settings.to_dict().get("tie_word_embeddings"):
        linear += max(int(np.prod(shape, dtype=np.int64)) for shape in all_shapes.values())
    targets = sum(d_out * d_in for d_out, d_in in shapes.values())
    moments = sum(shapes[leader][1] ** 2 for leader in set(memory.covariance_of.values()))
    svd = 0.0
    for d_out, d_in in shapes.values():
        small, large = min(d_out, d_in), max(d_out, d_in)
        svd += 2 * d_out * d_in**2 + (2 * large * small**2 if large > small else 0) + 22 * small**3
    return {
        "calibration": float(samples * tokens * (4 * linear + 2 * targets + moments)),
        "initialisation": 2.0 * svd,
    }


def product_rate(n: int = 1024, seconds: float = 0.3) -> float:
    """Operations a second of float32 products (512, n) x (n, n) on this machine, the median of a few."""
    x, W = np.ones((512, n), dtype=np.float32), np.ones((n, n), dtype=np.float32)
    x @ W.T
    times: list[float] = []
    while sum(times) < seconds:
        begin = time.perf_counter()
        x @ W.T
        times.append(time.perf_counter() - begin)
    return 2.0 * 512 * n * n / statistics.median(times)
