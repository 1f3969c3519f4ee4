"""Time and memory of training: a small part of it done on this machine, with weights of no meaning, and scaled."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import psutil

from tlora_ref.adapter import Adapter
from tlora_ref.data import batches, pad_batch, sample_form
from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import MemoryPlan
from tlora_ref.planning.time import EFFICIENCY, operations, product_rate
from tlora_ref.training import TrainSettings
from tlora_ref.training.loop import apply_gradients, step_gradients
from tlora_ref.training.state import TrainState
from tlora_ref.transformer import Model

#: What families call the number of their layers.
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
#: About how long one measured step may take, in seconds; and for how long steps are repeated.
STEP_SECONDS, REPEATED = 0.4, 0.3
#: Weights of the layers that are measured, beyond which operations are counted instead.
MEASURED_WEIGHTS = 150_000_000


@dataclass(frozen=True)
class TrainingPlan:
    """About what training takes on this machine.

    Attributes
    ----------
    step_seconds : of one optimizer step
    steps, seconds : of the run, without calibration and held-out evaluation; None where no number of steps was given
    peak_bytes : of the process while it trains: its own, weights, adapter, AdamW's state old and new, activations
    tokens : padded tokens of a row that are reckoned with
    measured : whether a part of a step was made here; else its operations were counted
    """

    step_seconds: float
    steps: int | None
    seconds: float | None
    peak_bytes: int
    tokens: int
    measured: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def padded_tokens(lengths: Sequence[int], batch_size: int, seed: int, *, group_by_length: bool = False) -> int:
    """Tokens of a row with its padding, on average over the batches of the first epoch."""
    together = lengths if group_by_length else None
    longest = [max(batch) * len(batch) for batch in batches(lengths, batch_size, seed=seed, lengths=together)]
    return max(1, round(sum(longest) / len(lengths)))


def mean_tokens(lengths: Sequence[int]) -> int:
    """Tokens of a row on average."""
    return max(1, round(sum(lengths) / len(lengths)))


def plan_training(
    memory: MemoryPlan,
    *,
    tokens: int = 512,
    batch_size: int = 8,
    grad_accumulation: int = 1,
    steps: int | None = None,
    dtype: str = "float32",
) -> TrainingPlan:
    """About how long steps of `batch_size` rows of `tokens` tokens take here, and what they hold at once.

    A few layers run forth and back over a few rows: the difference between two depths is a layer, the rest the head. So
    it takes seconds and the memory of one layer; a model whose single layers are large is reckoned by its operations.

    Raises
    ------
    ConfigError
        for a count below 1, or a model that has no loss.
    """
    for name, value in (("tokens", tokens), ("batch_size", batch_size), ("grad_accumulation", grad_accumulation)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: expected at least 1")
    tokens = memory.sample_tokens(tokens)
    part = _part(memory, tokens, batch_size)
    scale = batch_size * tokens / (part.rows * part.tokens)
    if part.measured:
        first = _measured(memory, part.depths[0], part, dtype)
        second = first if part.depths[0] == part.depths[1] else _measured(memory, part.depths[1], part, dtype)
    else:
        first = second = _counted(memory, part)
    layers = (
        0.0 if part.depths[0] == part.depths[1] else (part.depth - part.depths[0]) / (part.depths[1] - part.depths[0])
    )
    forth_and_back, update, held = (a + layers * max(0.0, b - a) for a, b in zip(first, second, strict=True))
    seconds = grad_accumulation * scale * forth_and_back + update
    taken = memory.bytes(dtype)
    trained = taken["adamw_moments"] // 2
    peak = (
        part.own_bytes
        + taken["weights"]
        + taken["adapter"]
        + 2 * (taken["adamw_moments"] + trained)
        + int(scale * held)
    )
    return TrainingPlan(seconds, steps, None if steps is None else steps * seconds, peak, tokens, part.measured)


@dataclass(frozen=True)
class _Part:
    """What of a step is done: rows, tokens of a row, two depths (the same where the model is small), of all layers; and
    what the process holds before."""

    rows: int
    tokens: int
    depths: tuple[int, int]
    depth: int
    measured: bool
    own_bytes: int


def _part(memory: MemoryPlan, tokens: int, batch_size: int) -> _Part:
    """What takes about STEP_SECONDS: of two rows at least where there are two, for these go in halves."""
    settings = memory.settings
    depth = next((int(getattr(settings, name)) for name in DEPTHS if hasattr(settings, name)), 1)
    name = next((name for name in DEPTHS if name in getattr(settings, "__dataclass_fields__", {})), None)
    cost = operations(memory, 1, 1)["calibration"] / product_rate(seconds=0.1)  # seconds of one token of one row
    base = psutil.Process().memory_info().rss
    whole = cost * tokens * batch_size <= STEP_SECONDS or name is None or depth <= 4
    depths, share = ((depth, depth), 1.0) if whole else ((1, 3), 3 / depth)
    measured = memory.weights * share <= MEASURED_WEIGHTS
    fit = int(STEP_SECONDS / (cost * share)) if measured else tokens
    rows = max(min(batch_size, 2), min(batch_size, fit // tokens))
    return _Part(rows, max(min(tokens, 32), min(tokens, fit // rows)), depths, depth, measured, base)


def _shallow(memory: MemoryPlan, depth: int, dtype: str) -> Model:
    """The model with so many layers, which share one set of random weights."""
    changes = {name: depth for name in DEPTHS if name in getattr(memory.settings, "__dataclass_fields__", {})}
    settings = replace(memory.settings, **changes)
    made: dict[tuple[str, tuple[int, ...]], Any] = {}
    tensors = {}
    rng = np.random.default_rng(0)
    for name, shape in memory.family.tensor_shapes(settings).items():
        key = (name.rpartition("layers.")[2].partition(".")[2] or name, shape)
        if key not in made:
            made[key] = _numbers(rng, shape).astype(dtype)
        tensors[name] = made[key]
    return memory.family(settings, tensors)


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers of the size that weights have: tiny ones would underflow on their way back, which takes long."""
    if len(shape) < 2:
        return np.ones(shape, dtype=np.float32)
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))


def _measured(memory: MemoryPlan, depth: int, part: _Part, dtype: str) -> tuple[float, float, float]:
    """Seconds forth and back, seconds of AdamW, bytes held, of a model with `depth` layers."""
    model = _shallow(memory, depth, dtype)
    shapes = {module: shape for module, shape in memory.shapes.items() if f"{module}.weight" in model.tensors}
    A = {m: np.full((memory.rank, d_in), 0.01, dtype=dtype) for m, (_, d_in) in shapes.items()}
    B = {m: np.zeros((d_out, memory.rank), dtype=dtype) for m, (d_out, _) in shapes.items()}
    model.attach(Adapter(A, B, dict.fromkeys(shapes, 1.0)))
    batch = pad_batch([_sample(model, part.tokens)] * part.rows)
    arrays = {f"{m}.lora_B.weight": matrix for m, matrix in B.items()}
    plan, state = TrainSettings(steps=2, warmup_ratio=0.0), TrainState.start(arrays)
    step_gradients(model, arrays, [pad_batch([_sample(model, min(16, part.tokens))])])  # what is computed once
    tracemalloc.start()
    found = step_gradients(model, arrays, [batch])
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times: list[float] = []
    while sum(times) < REPEATED:
        times.append(_seconds(lambda: step_gradients(model, arrays, [batch])))
    update = min(_seconds(lambda: apply_gradients(state, found, plan, 2)) for _ in range(2))
    return float(np.median(times)), update, float(held)


def _counted(memory: MemoryPlan, part: _Part) -> tuple[float, float, float]:
    """The same from operations and from what a Llama's layer saves (see the training room), all layers."""
    counted = operations(memory, part.rows, part.tokens)["calibration"] / (EFFICIENCY * product_rate())
    widths = sum(d_in + d_out for d_out, d_in in memory.shapes.values())
    return counted, 0.0, 4.0 * part.rows * part.tokens * (widths + 2 * memory.settings.vocab_size)


def _sample(model: Model, tokens: int) -> dict[str, Any]:
    ids: list[int] = [i % model.config.vocab_size for i in range(2, tokens + 2)]
    return {"input_ids": ids, "labels": 0 if sample_form(model) == "classes" else list(ids)}


def _seconds(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
