"""Seconds of a run, and what its passes hold: measured on a part of it, or counted by operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.autograd import loss
from tlora_ref.backend import Array, blas_threads
from tlora_ref.data import pad_batch
from tlora_ref.data.batches import HALVED_TOKENS
from tlora_ref.data.lengths import IGNORED
from tlora_ref.planning import measure
from tlora_ref.planning.memory import MemoryPlan
from tlora_ref.planning.shallow import LAYERS, Kept, Shallow, depth, shallow

Batch = dict[str, Array]
Sample = Mapping[str, Any]

#: Of the rate of bare products, what calibration and training reach on the whole.
EFFICIENCY = 0.75
#: A measured pass takes about so many seconds; and the weights of a model that is measured whole if it fits into them.
PASS_SECONDS, WHOLE_WEIGHTS = 0.3, 30_000_000
#: Samples that calibrate side by side, and of a small model those that are measured.
TOGETHER, MEASURED = 2, 8
#: Bytes of the logits that two halves of a batch have at once.
LOGITS = 2 * 4 * loss.LOGITS


@dataclass(frozen=True)
class Work:
    """What is planned for.

    Attributes
    ----------
    passes, passes_a_step : batches of the run's steps, and how many make a step
    drawn : the samples that calibrate
    valid : the batches held out
    kept : how weights and activations are kept
    """

    memory: MemoryPlan
    passes: list[Batch]
    passes_a_step: float
    drawn: list[Sample]
    valid: list[Batch]
    kept: Kept

    def sizes(self) -> dict[str, float]:
        """On average, as `RunPlan` has them: rows of a pass, tokens of such a row, and of a sample that calibrates."""
        rows = sum(len(batch["input_ids"]) for batch in self.passes)
        return {
            "rows": rows / len(self.passes),
            "tokens": sum(map(padded, self.passes)) / rows,
            "sample_tokens": sum(map(_length, self.drawn)) / len(self.drawn),
        }


@dataclass(frozen=True)
class Took:
    """`seconds` and `flop` as `RunPlan` has them; `held`: {"calibration", "training": bytes beside what is counted}."""

    seconds: dict[str, float]
    held: dict[str, float]
    flop: dict[str, float]


def padded(batch: Mapping[str, Array]) -> int:
    """Tokens of a batch with its padding."""
    return int(batch["input_ids"].size)


def scored(batch: Mapping[str, Array]) -> int:
    """Labels of a batch that are scored, or classes."""
    return max(1, int((batch["labels"] != IGNORED).sum()))


def measured(work: Work) -> Took:
    """By parts of the work, done here and now."""
    memory, passes = work.memory, work.passes
    average = float(np.mean([padded(batch) for batch in passes]))
    typical = min(passes, key=lambda batch: abs(padded(batch) - average))
    rate, flop = EFFICIENCY * product_rate(seconds=0.1), _flop(work)
    probe, fit = _probe(work, typical, rate)
    batch = part(typical, fit)
    done = measure.training_pass(probe, memory, batch)
    each = done.layers / padded(batch), done.output / scored(batch)
    few = work.drawn[:MEASURED]
    if not probe.whole or sum(map(_length, few)) > fit:
        few = [_one(work.drawn, fit // TOGETHER)] * TOGETHER
    calibrating, calibration, stats = measure.calibration(probe, memory, few)
    seconds = {
        "calibration": calibrating * _abreast(work.drawn) / _abreast(few) + each[1] * _scored(work.drawn),
        "initialisation": flop["initialisation"] / rate,
        "step": work.passes_a_step * float(np.mean([_seconds(each, one) for one in passes]))
        + measure.update(probe, memory),
        "evaluation": _evaluation(probe, work, fit),
    }
    if seconds["initialisation"] / probe.layers <= 4 * PASS_SECONDS:
        seconds["initialisation"] = measure.initialisation(probe, memory, stats)
    logits = 0 if probe.whole else LOGITS
    held = {
        "calibration": calibration.of(_longest(work.drawn) / _longest(few)) + logits,
        "training": done.held.of(max(map(padded, passes)) / padded(batch)) + logits,
    }
    return Took(seconds, held, flop)


def _probe(work: Work, typical: Batch, rate: float) -> tuple[Shallow, int]:
    """What is measured in place of the model, and how many tokens of a batch take about PASS_SECONDS with it."""
    memory = work.memory
    token = _flop_of_token(memory, typical["input_ids"].shape[1]) / rate  # seconds
    fits = token * padded(typical) <= PASS_SECONDS or depth(memory.settings) <= LAYERS
    probe = shallow(memory, whole=memory.weights <= WHOLE_WEIGHTS and fits, kept=work.kept)
    return probe, int(PASS_SECONDS / token * probe.layers)


def counted(work: Work) -> Took:
    """By operations, and by what a Llama's layer saves (see the training room)."""
    memory, rate, flop = work.memory, EFFICIENCY * product_rate(), _flop(work)
    token = _flop_of_token(memory, max(batch["input_ids"].shape[1] for batch in work.passes)) / rate
    seconds = {
        **{name: number / rate for name, number in flop.items()},
        "step": work.passes_a_step * token * float(np.mean([padded(batch) for batch in work.passes])),
        "evaluation": token / 2 * sum(map(padded, work.valid)),  # the way back is left out
    }
    saved = float(np.dtype(work.kept.dtype).itemsize * sum(d_in + d_out for d_out, d_in in memory.shapes.values()))
    held = {"calibration": saved * _longest(work.drawn), "training": saved * max(map(padded, work.passes))}
    return Took(seconds, held, flop)


def _evaluation(probe: Shallow, work: Work, fit: int) -> float:
    """Seconds of all held-out batches once."""
    if not work.valid:
        return 0.0
    middle = work.valid[len(work.valid) // 2]
    batch = part(middle, fit)
    layers, output = measure.evaluation_pass(probe, work.memory, batch)
    each = layers / padded(batch), output / scored(batch)
    return sum(_seconds(each, one) for one in work.valid)


def _seconds(each: tuple[float, float], batch: Batch) -> float:
    """Of a batch, by seconds a token with its padding and a scored label."""
    return each[0] * padded(batch) + each[1] * scored(batch)


def part(batch: Batch, fit: int) -> Batch:
    """`batch`, or one of about `fit` tokens that stands for it where it is larger.

    That is its longest row, cut at the front if need be, as many times as fit; of two rows at least where there are
    two, and large enough to go in halves if the whole does.
    """
    rows, width = batch["input_ids"].shape
    if padded(batch) <= fit:
        return batch
    fit = min(padded(batch), max(fit, HALVED_TOKENS if rows > 1 else 32))
    count = min(rows, max(2, fit // width))
    columns = min(width, max(1, fit // count))
    there = batch["attention_mask"] if "attention_mask" in batch else batch["segments"] > 0
    longest = int(there.sum(axis=1).argmax())
    found = {}
    for name, values in batch.items():
        row = values[longest : longest + 1]
        row = row[:, -columns:] if row.shape[1:] == (width,) else row
        found[name] = np.repeat(row, count, axis=0)
    if found["labels"].ndim == 2 and not (found["labels"][:, 1:] != IGNORED).any():
        found["labels"][:, -1] = 0
    return found


def _one(samples: Sequence[Sample], fit: int) -> Sample:
    """A sample of average length, of `fit` tokens at most."""
    average = sum(map(_length, samples)) / len(samples)
    row = pad_batch([min(samples, key=lambda sample: abs(_length(sample) - average))])
    return {name: values[0] for name, values in part(row, fit).items() if name != "attention_mask"}


def _length(sample: Sample) -> int:
    return len(sample["input_ids"])


def _scored(samples: Sequence[Sample]) -> int:
    return sum(int((np.atleast_1d(sample["labels"]) != IGNORED).sum()) for sample in samples)


def _pairs(samples: Sequence[Sample]) -> list[list[int]]:
    """The lengths of samples that calibrate together."""
    lengths = [_length(sample) for sample in samples]
    return [lengths[start : start + TOGETHER] for start in range(0, len(lengths), TOGETHER)]


def _abreast(samples: Sequence[Sample]) -> int:
    """Tokens that take time: where two samples go side by side, the shorter one waits for the longer."""
    waits = blas_threads() == TOGETHER
    return sum(max(pair) * len(pair) if waits else sum(pair) for pair in _pairs(samples))


def _longest(samples: Sequence[Sample]) -> int:
    """Tokens of the longest samples that calibrate together."""
    return max(map(sum, _pairs(samples)))


def _flop(work: Work) -> dict[str, float]:
    tokens = sum(map(_length, work.drawn))
    return operations(work.memory, 1, tokens)


def _flop_of_token(memory: MemoryPlan, tokens: int) -> float:
    """Of a token in a row of `tokens`, forth and back: calibration's, which has the weights' gradients too, is a little
    more; and of its scores and what they weigh, twice that on the way back."""
    width = min(d_in for _, d_in in memory.shapes.values())
    return operations(memory, 1, 1)["calibration"] + 12.0 * tokens * width * depth(memory.settings)


def operations(memory: MemoryPlan, samples: int, tokens: int) -> dict[str, float]:
    """Floating-point operations of calibration and of initialisation, the latter's counted twice for float64.

    Calibration: every weight matrix forth and back, dW of every target, half of every X^T X. Left out: attention's own
    products, a few percent at lengths far below the width. Initialisation: W C, its Gram matrix, and the
    eigenvectors of that, which take 9 n^3.
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
        svd += 2 * d_out * d_in**2 + 2 * large * small**2 + 9 * small**3
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
