"""Parts of a run done here and now: seconds and bytes, of which the whole run's follow."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tlora_ref.adapter import allocate, initialize
from tlora_ref.autograd import grad
from tlora_ref.backend import Array, blas_threads
from tlora_ref.calibration import CalibrationStats, calibrate, sample_inputs
from tlora_ref.data import halves
from tlora_ref.planning.memory import MemoryPlan
from tlora_ref.planning.shallow import Shallow
from tlora_ref.training import TrainSettings
from tlora_ref.training.evaluate import summed_loss
from tlora_ref.training.loop import StepGradients, apply_gradients, step_gradients
from tlora_ref.training.state import TrainState
from tlora_ref.transformer import Model, ModuleInputs

Batch = Mapping[str, Array]
Sample = Mapping[str, Any]
#: Work is repeated for so many seconds, twice at least, unless once takes SLOW or more.
REPEATED, SLOW = 0.2, 0.5


class Held(NamedTuple):
    """Bytes held at most: what does not grow with tokens (a block of weights that is widened, a gradient), and what the
    tokens of the measured batch take: in every layer what is kept for the way back, and once what comes and goes."""

    fixed: float
    growing: float

    def of(self, times: float) -> float:
        """Of `times` as many tokens."""
        return self.fixed + times * self.growing


@dataclass(frozen=True)
class Pass:
    """Seconds of a batch forth and back: those of the layers, those of the output layer; and what is held."""

    layers: float
    output: float
    held: Held


class Cost(NamedTuple):
    """Of some work: its seconds, and the most bytes that it holds at once."""

    seconds: float
    held: float


def training_pass(probe: Shallow, memory: MemoryPlan, batch: Batch) -> Pass:
    """A micro-batch forth and back to the gradient of every B."""

    def of(model: Model) -> Cost:
        return cost(partial(step_gradients, model, _adapted(model, memory), [fitting(batch, model)]))

    held = _held_by_pass(probe, memory, batch)
    layers, output = probe.parts(of(probe.body).seconds, lambda model: of(model).seconds)
    return Pass(layers, output, held)


def _held_by_pass(probe: Shallow, memory: MemoryPlan, batch: Batch) -> Held:
    """Of one half, if the batch goes in halves: with several threads both are there at once, with one in turn."""
    parts = halves({name: np.asarray(values) for name, values in batch.items()})
    at_once = len(parts) if blas_threads() > 1 else 1
    arrays, inputs = _adapted(probe.body, memory), fitting(parts[0], probe.body)
    view = probe.body.watching(arrays)

    def back() -> None:
        grad(view(**inputs, loss_divisor=1.0).loss, arrays)

    first, again = peak_of(back), peak_of(back)  # the first also makes the place where weights are widened
    kept = kept_by(lambda: view(**inputs, loss_divisor=1.0))
    return Held(at_once * max(0.0, first - again), at_once * (kept * probe.layers + again - kept))


def evaluation_pass(probe: Shallow, memory: MemoryPlan, batch: Batch) -> tuple[float, float]:
    """Seconds of a held-out batch: of the layers, of the output layer."""

    def of(model: Model) -> float:
        _adapted(model, memory)
        return cost(partial(summed_loss, model.watching([]), fitting(batch, model))).seconds

    return probe.parts(of(probe.body), of)


def update(probe: Shallow, memory: MemoryPlan) -> float:
    """Seconds of AdamW."""
    model = probe.body
    arrays = _adapted(model, memory)
    gradients = StepGradients({name: np.ones_like(B) for name, B in arrays.items()}, 1.0, 1, 1.0)
    state, plan = TrainState.start(arrays), TrainSettings(steps=2, warmup_ratio=0.0)
    return cost(lambda: apply_gradients(state, gradients, plan, 2)).seconds * probe.layers


def calibration(probe: Shallow, memory: MemoryPlan, samples: Sequence[Sample]) -> tuple[float, Held, CalibrationStats]:
    """Seconds of calibrating on `samples` but for the output layer; bytes but for the sums; what it gave of `body`."""
    found: list[CalibrationStats] = []
    body = cost(lambda: found.append(_calibrated(probe.body, memory, samples)))
    sums = sum(C.nbytes for C in found[-1].covariance_sums.values())
    names, pair = [f"{module}.weight" for module in found[-1].shapes], samples[:2]  # two go side by side
    view = probe.body.watching(names).observing(ModuleInputs(found[-1].shapes))
    kept = kept_by(lambda: [view(**sample_inputs(fitting(sample, probe.body), 0)) for sample in pair])
    return body.seconds * probe.layers, Held(max(0.0, body.held - sums - kept), kept * probe.layers), found[-1]


def initialisation(probe: Shallow, memory: MemoryPlan, stats: CalibrationStats) -> float:
    """Seconds of the A of every module."""
    plan = allocate(stats.sensitivity, stats.shapes, memory.rank, float(memory.rank))
    return cost(lambda: initialize(probe.body, stats, plan)).seconds * probe.layers


def _targets(model: Model, memory: MemoryPlan) -> dict[str, tuple[int, int]]:
    """The targets that a shallow model has too."""
    there = set(model.linear_modules(model.config))
    return {module: shape for module, shape in memory.shapes.items() if module in there}


def _calibrated(model: Model, memory: MemoryPlan, samples: Sequence[Sample]) -> CalibrationStats:
    model.detach()
    return calibrate(model, [fitting(sample, model) for sample in samples], list(_targets(model, memory)))


def _adapted(model: Model, memory: MemoryPlan) -> dict[str, Array]:
    """Attaches an adapter of one rank to all targets: its B by the names that training has for them."""
    shapes = _targets(model, memory)
    plan = allocate(dict.fromkeys(shapes, 1.0), shapes, memory.rank, float(memory.rank))
    adapter = initialize(model, None, plan, init="random")
    model.attach(adapter)
    return {f"{module}.lora_B.weight": B for module, B in adapter.B.items()}


def fitting(batch: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """A batch or sample with token ids and labels that the model knows."""
    words, labels = model.config.vocab_size, np.asarray(batch["labels"])
    known = labels % len(model.labels) if model.labels else np.where(labels < 0, labels, labels % words)
    return {**batch, "input_ids": np.asarray(batch["input_ids"]) % words, "labels": known}


def cost(work: Callable[[], object]) -> Cost:
    """What `work` takes: once for its bytes and for what is made once, then the median of a few times."""
    begin = time.perf_counter()
    held = peak_of(work)
    first = time.perf_counter() - begin
    if first >= SLOW:
        return Cost(first, held)
    times = [_seconds(work), _seconds(work)]
    while sum(times) < REPEATED:
        times.append(_seconds(work))
    return Cost(statistics.median(times), held)


def peak_of(work: Callable[[], object]) -> float:
    """The most bytes that `work` has at once, of those that it asks for itself."""
    tracemalloc.start()
    try:
        work()
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def kept_by(work: Callable[[], object]) -> float:
    """The bytes that what `work` returns keeps alive."""
    tracemalloc.start()
    try:
        result = work()
        return float(tracemalloc.get_traced_memory()[0]) if result is not None else 0.0
    finally:
        tracemalloc.stop()


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
