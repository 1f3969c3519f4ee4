"""`tlora-ref plan`: counts and memory from a configuration alone."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array
from tlora_ref.checkpoint import read_config
from tlora_ref.checkpoint.load import checked_dtype
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen, size
from tlora_ref.errors import ConfigError
from tlora_ref.transformer import Model

Shapes = Mapping[str, tuple[int, int]]


def plan(
    model: o.ModelFolder,
    config: o.Config = None,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    samples: o.Samples = 32,
    tokens: o.SampleTokens = 512,
    workers: o.Workers = 1,
    json: o.Json = False,
) -> None:
    """Parameters, memory and time of an adapter, from config.json alone (MODEL: its folder, or the file itself)."""
    screen = Screen(json)
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"--alpha {alpha}: expected a positive, finite number")
    settings, family = read_config(model)
    shapes = family.target_shapes(settings, target or None)
    counts, lead = counted(family, settings, shapes, rank), shared_inputs(family, settings, shapes)
    memory = {dtype: footprint(counts, shapes, lead, dtype) for dtype in ("float32", "float64")}
    screen.say(f"{settings.model_type}: {counts['weights']:,} weights, {len(shapes)} target modules")
    show_targets(screen, shapes)
    screen.say(f"Budget: ranks sum to {len(shapes)} x {rank} = {len(shapes) * rank:,}, mean scale {alpha / rank:g}")
    screen.say(f"  LoRA, A and B trained:                  {counts['lora_parameters']:>15,} parameters")
    screen.say(f"  frozen A, uniform rank, B trained:      {counts['frozen_A_parameters']:>15,} parameters")
    screen.say("  TLoRA's own count depends on the data: `tlora-ref init` prints it")
    lines = [(name.replace("_", " "), *(size(memory[d][name]) for d in memory), WHAT[name]) for name in WHAT]
    screen.table("Memory, beside activations", ("", "float32", "float64", ""), lines)
    work = operations(family, settings, shapes, lead, samples, tokens)
    rate = product_rate()
    hours = {name: number / (EFFICIENCY * rate) / 3600 for name, number in work.items()}
    hours["calibration"] /= workers
    machines = f"; {workers} such machines calibrate" if workers > 1 else ""
    screen.say(f"Time in float32, about, at {EFFICIENCY:.0%} of the {rate / 1e9:,.0f} GFLOP/s measured now{machines}")
    screen.say(f"  calibration, {samples} samples of {tokens} tokens: {duration(hours['calibration'])}")
    screen.say(f"  initialisation, the SVD of every W C: {duration(hours['initialisation'])}")
    modules = {m: {"shape": list(shape), "covariance_of": lead[m]} for m, shape in shapes.items()}
    head = {"model_type": settings.model_type, "rank": rank, "alpha": alpha, "modules": len(shapes), **counts}
    screen.finish({**head, "bytes": memory, "flop": work, "flop_per_second": rate, "hours": hours, "targets": modules})


def show_targets(screen: Screen, shapes: Shapes) -> None:
    """The target modules, those of one name and shape in one line."""
    kinds = Counter((module.rpartition(".")[2], shape) for module, shape in shapes.items())
    rows = [(name, f"{d_out:,}", f"{d_in:,}", str(n)) for (name, (d_out, d_in)), n in kinds.items()]
    screen.table("Target modules", ("name", "d_out", "d_in", "modules"), rows)


WHAT = {
    "weights": "W_0, all of the model; every worker has it",
    "covariances": "C, once for modules that share an input; calibration holds two such sets, a worker one",
    "covariances_of_a_layer": "the largest: calibrated layer by layer, no more is held at a time",
    "adapter": "A and B at the uniform rank",
    "adamw_moments": "both moments of B",
}


def counted(family: type[Model], settings: Any, shapes: Shapes, rank: int) -> dict[str, int]:
    """Weights of the model, parameters of plain LoRA and of B alone at a uniform rank: exact integers."""
    return {
        "weights": sum(int(np.prod(shape, dtype=np.int64)) for shape in family.tensor_shapes(settings).values()),
        "lora_parameters": sum(rank * (d_out + d_in) for d_out, d_in in shapes.values()),
        "frozen_A_parameters": sum(rank * d_out for d_out, _ in shapes.values()),
    }


def footprint(counts: Mapping[str, int], shapes: Shapes, lead: Mapping[str, str], dtype: str) -> dict[str, int]:
    """Bytes of each thing in WHAT."""
    entries = {
        "weights": counts["weights"],
        "covariances": sum(shapes[leader][1] ** 2 for leader in set(lead.values())),
        "covariances_of_a_layer": max(covariances_by_layer(shapes, lead).values()),
        "adapter": counts["lora_parameters"],
        "adamw_moments": 2 * counts["frozen_A_parameters"],
    }
    return {name: number * checked_dtype(dtype).itemsize for name, number in entries.items()}


def covariances_by_layer(shapes: Shapes, lead: Mapping[str, str]) -> dict[str, int]:
    """{what stands before a module's place in its layer: numbers in the layer's covariances}."""
    found: Counter[str] = Counter()
    for leader in set(lead.values()):
        number = re.search(r"\.\d+\.", leader)
        found[leader[: number.end()] if number else leader] += shapes[leader][1] ** 2
    return found


def operations(
    family: type[Model], settings: Any, shapes: Shapes, lead: Mapping[str, str], samples: int, tokens: int
) -> dict[str, float]:
    """Floating-point operations of calibration and of initialisation, the latter's counted twice for float64.

    Calibration: every weight matrix forth and back, dW of every target, half of every X^T X. Left out: attention's own
    products, a few percent at lengths far below the width. Initialisation: W C, its reduction to a square matrix, and
    the SVD of that, which takes 22 n^3.
    """
    all_shapes = family.tensor_shapes(settings)
    linear = sum(int(np.prod(all_shapes[f"{m}.weight"], dtype=np.int64)) for m in family.linear_modules(settings))
    if settings.to_dict().get("tie_word_embeddings"):
        linear += max(int(np.prod(shape, dtype=np.int64)) for shape in all_shapes.values())
    targets = sum(d_out * d_in for d_out, d_in in shapes.values())
    moments = sum(shapes[leader][1] ** 2 for leader in set(lead.values()))
    svd = 0.0
    for d_out, d_in in shapes.values():
        small, large = min(d_out, d_in), max(d_out, d_in)
        svd += 2 * d_out * d_in**2 + (2 * large * small**2 if large > small else 0) + 22 * small**3
    return {
        "calibration": float(samples * tokens * (4 * linear + 2 * targets + moments)),
        "initialisation": 2.0 * svd,
    }


#: Of the rate of bare products, what calibration reaches on the whole.
EFFICIENCY = 0.75


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


def duration(hours: float) -> str:
    """As people say it."""
    return (
        f"{hours:.1f} hours"
        if hours >= 1
        else f"{hours * 60:.1f} minutes"
        if hours * 60 >= 1
        else f"{hours * 3600:.1f} s"
    )


def shared_inputs(family: type[Model], settings: Any, shapes: Shapes) -> dict[str, str]:
    """{module: the first module that is given the very same input}, found by a dry run.

    The model runs over two tokens with weights that take no memory, its linear modules giving zeros unmultiplied.
    """

    class DryRun(family):  # type: ignore[misc, valid-type]
        def linear(self, module: str, x: Tensor) -> Tensor:
            self._observer(module, x.data)
            d_out = self.weight(module).shape[0]
            return Tensor(np.broadcast_to(np.zeros((), x.data.dtype), (*x.shape[:-1], d_out)))

    seen: dict[int, tuple[Array, str]] = {}  # the arrays are kept, so that no id is used twice
    lead: dict[str, str] = {}

    def observe(module: str, x: Array) -> None:
        if module in shapes:
            lead[module] = seen.setdefault(id(x), (x, module))[1]

    zeros = {n: np.broadcast_to(np.float32(0.0), shape) for n, shape in family.tensor_shapes(settings).items()}
    decoder = {"decoder_input_ids": [0, 0]} if settings.to_dict().get("is_encoder_decoder") else {}
    DryRun(settings, zeros).watching([]).observing(observe)([0, 0], **decoder)
    return {module: lead.get(module, module) for module in shapes}
