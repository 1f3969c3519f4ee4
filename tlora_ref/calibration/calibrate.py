"""Runs a model over calibration samples and feeds lines 8 and 9 of Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tlora_ref.autograd import backward
from tlora_ref.backend import Array, array_module, concatenate, to_numpy
from tlora_ref.calibration.blocked import add_second_moment, blocked_sensitivity
from tlora_ref.calibration.saving import SAVE_SECONDS, SavedSums, Sums, held_back, samples_digest
from tlora_ref.calibration.statistics import CalibrationStats
from tlora_ref.errors import ConfigError, DataError, DeviceError, NumericsError, OutputError, reason
from tlora_ref.method.covariance import centred
from tlora_ref.method.switches import Switches, resolve
from tlora_ref.transformer import Model, ModuleInputs

Sample = Mapping[str, Any]
Shapes = dict[str, tuple[int, int]]
#: Called after each sample with (samples done, samples in all).
Progress = Callable[[int, int], None]

#: The fields of a sample that a model's call takes.
SAMPLE_FIELDS = ("input_ids", "labels", "attention_mask", "token_type_ids", "decoder_input_ids")

#: What a folder that workers share holds beside their sums.
WEIGHTS = "weights.safetensors"
#: Samples that go through side by side, each holding its activations. Fixed: sums add up in one order everywhere.
TOGETHER = 2


def calibrate(
    model: Model,
    samples: Iterable[Sample],
    targets: str | Sequence[str] | None = None,
    *,
    profile: str | Switches = "paper",
    executor: Executor | None = None,
    scratch: str | Path | None = None,
    block_size: int = 8,
    progress: Progress | None = None,
    kept: str | Path | None = None,
    save_seconds: float = SAVE_SECONDS,
    resume: bool = False,
) -> CalibrationStats:
    """Alg. 1, lines 4 to 11: C_i and S_i of every target module over the samples.

    Each sample goes through by itself, because Eq. 5 averages |W * dLoss_n/dW| over samples: the mean gradient would
    not do. Nothing of a sample outlives it but its contribution to the sums. The sums are formed in blocks of
    `block_size` samples and the blocks added in order, with an executor as without, so the result does not depend on
    how many workers there are.

    Parameters
    ----------
    model : any model; an attached adapter is refused (S and C are those of W_0)
    samples : mappings with `input_ids` and `labels`, 1-D, unpadded
    targets : see `Model.shapes`
    profile : "paper", "released", or Switches: only `centre` acts here
    executor : a `concurrent.futures.Executor` that runs the blocks; None runs them here
    scratch : where an executor's workers find the weights and leave their sums, a block a file: a folder that all
        their machines share; by default one of this machine's for temporary files. It is left as it was
    progress : called after each sample (after each block with an executor)
    kept : a file that holds the sums so far: written about every `save_seconds` and on Ctrl-C, and at the end of a
        calibration of which it was written before. It stays, for the caller to remove once the statistics are used
    resume : go on from `kept`; the statistics have the bits of a calibration that was never stopped

    Raises
    ------
    DataError
        if there is no sample, or one lacks a field.
    NumericsError
        if a loss is not finite; the message names the sample.
    DeviceError
        if a worker of the executor died, or does not see `scratch`.
    OutputError
        if `scratch` or `kept` cannot be written.
    CheckpointError, ConfigError
        if there is nothing to resume, or it is damaged or of another model, other samples or other settings.
    """
    if model.adapter is not None:
        raise ConfigError("calibrate measures the frozen weights: call model.detach() first")
    switches = resolve(profile)
    chosen = list(samples)
    if not chosen:
        raise DataError("there are no calibration samples: give at least one")
    shapes = model.shapes(targets)
    identity = {} if kept is None else _identity(model, shapes, chosen, switches, block_size)
    saved = SavedSums(None if kept is None else Path(kept), identity, save_seconds)
    sums = saved.load() if resume else Sums()
    work = _Work(model, shapes, chosen, switches, block_size, progress)
    try:
        if executor is None:
            work.in_turn(sums, saved)
        else:
            work.side_by_side(sums, saved, executor, scratch)
    except KeyboardInterrupt:
        saved.save(sums)
        raise
    if saved.written:
        saved.save(sums)
    assert sums.done is not None
    return sums.done


def _identity(
    model: Model, shapes: Shapes, samples: Sequence[Sample], switches: Switches, block_size: int
) -> dict[str, Any]:
    """What a kept calibration must agree with to be resumed."""
    return {
        "model": model.digest(),
        "dtype": str(model.dtype),
        "device": model.device.name,
        "modules": {module: list(shape) for module, shape in shapes.items()},
        "samples": len(samples),
        "samples_sha256": samples_digest(samples, SAMPLE_FIELDS),
        "profile": switches.name,
        "centre": switches.centre,
        "block_size": block_size,
    }


@dataclass(frozen=True)
class _Work:
    """A calibration: blocks of samples, whose sums are added up in their order."""

    model: Model
    shapes: Shapes
    samples: Sequence[Sample]
    switches: Switches
    block_size: int
    progress: Progress | None

    def blocks(self, sums: Sums) -> list[tuple[int, Sequence[Sample]]]:
        """(number of its first sample, samples) of every block that is not in `sums` yet."""
        done = 0 if sums.done is None else sums.done.samples
        starts = range(done, len(self.samples), self.block_size)
        return [(start, self.samples[start : start + self.block_size]) for start in starts]

    def tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.samples))

    def in_turn(self, sums: Sums, saved: SavedSums) -> None:
        """Every block that is left, in this process."""
        for start, samples in self.blocks(sums):
            block = sums.block = sums.block or _empty(self.model, self.shapes, self.switches)
            for first in range(block.samples, len(samples), TOGETHER):
                group = samples[first : first + TOGETHER]
                add_samples(block, self.model, group, start + first)
                for done in range(len(group)):
                    self.tell(start + first + done + 1)
                saved.save_if_due(sums)
            sums.add_block(block)

    def side_by_side(self, sums: Sums, saved: SavedSums, executor: Executor, scratch: str | Path | None) -> None:
        """Every block that is left, by an executor; one that was begun elsewhere is begun again."""
        model, sums.block = self.model, None
        if model.device.name != "cpu":
            raise ConfigError(
                f'workers compute on the CPU, but the model is on the {model.device.name}: load it on "cpu"'
            )
        with _shared_folder(scratch) as folder:
            _write_weights(folder, model)
            work = partial(_block_file, folder, type(model), model.config, self.shapes, self.switches)
            submitted = [executor.submit(work, start, samples) for start, samples in self.blocks(sums)]
            try:
                for block in _arriving(submitted):
                    sums.add_block(block)
                    self.tell(sums.samples)
                    del block  # before the next one comes: there are never more than two
                    saved.save_if_due(sums)
            except BrokenExecutor as error:
                raise DeviceError(
                    f"a calibration worker died ({reason(error)}), most likely for want of memory: nothing was kept. "
                    "Use fewer workers"
                ) from error
            finally:
                for future in submitted:
                    future.cancel()
                _weights.cache_clear()


def _shared_folder(scratch: str | Path | None) -> TemporaryDirectory[str]:
    """A folder for the workers' files, removed in the end."""
    try:
        return TemporaryDirectory(prefix="tlora-calibration-", dir=scratch)
    except OSError as error:
        raise OutputError(f"{scratch}: statistics cannot be written there ({reason(error)})") from error


def _write_weights(folder: str, model: Model) -> None:
    """The weights once for all workers, rather than with every block."""
    try:
        save_file({name: to_numpy(W) for name, W in model.tensors.items()}, Path(folder) / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder}: the weights cannot be written there for the workers ({reason(error)})") from error


@lru_cache(maxsize=1)
def _weights(file: str) -> dict[str, Array]:
    """A worker reads them once."""
    return load_file(file)


def _block_file(
    folder: str,
    kind: type[Model],
    config: Any,
    shapes: Shapes,
    switches: Switches,
    start: int,
    samples: Sequence[Sample],
) -> str:
    """What a worker does: a block, its sums left in a file, as they are too large to send about. Returns its path."""
    weights, found = Path(folder) / WEIGHTS, Path(folder) / f"{start}.safetensors"
    if not weights.is_file():
        raise DeviceError(
            f"a calibration worker does not see {weights}: give `scratch`, a folder that all machines share"
        )
    model = kind(config, _weights(str(weights)))
    block = _empty(model, shapes, switches)
    for first in range(0, len(samples), TOGETHER):
        add_samples(block, model, samples[first : first + TOGETHER], start + first)
    block.save(found)
    return str(found)


def _arriving(submitted: Sequence[Future[str]]) -> Iterator[CalibrationStats]:
    """The workers' sums in order; a file goes as soon as it is read."""
    for future in submitted:
        path = Path(future.result())
        part = CalibrationStats.load(path)
        path.unlink()
        yield part
        del part


def _empty(model: Model, shapes: Shapes, switches: Switches) -> CalibrationStats:
    """The sums over no sample."""
    rules: dict[str, Any] = {"profile": switches.name, "centre": switches.centre, "model": model.digest()}
    return CalibrationStats(0, shapes, {}, {}, dict.fromkeys(shapes, 0.0), **rules)


def add_samples(stats: CalibrationStats, model: Model, samples: Sequence[Sample], first: int) -> list[dict[str, float]]:
    """Alg. 1, lines 6 to 10: adds every sample's X^T X and mean|W * dLoss_n/dW| to `stats`, in place.

    The samples, the first of them number `first`, go through side by side, each apart from the others.
    Returns their sensitivities, {module: mean|W * dLoss_n/dW|} for each.
    """
    side_by_side = model.device.side_by_side
    passes = side_by_side([partial(_Pass, model, stats.shapes, s, first + i) for i, s in enumerate(samples)])
    own = side_by_side([one.line_8 for one in passes])
    with held_back():  # here alone the sums change
        stats.leader = stats.leader or passes[0].leader
        for module, inputs in passes[0].inputs.items():
            if module not in stats.covariance_sums:
                d_in = inputs[0].shape[-1]
                stats.covariance_sums[module] = array_module(inputs[0]).zeros((d_in, d_in), dtype=inputs[0].dtype)
        side_by_side([partial(_line_9, stats, module, passes) for module in passes[0].inputs])
        for one, sensitivities in zip(passes, own, strict=True):
            for module, value in sensitivities.items():
                stats.sensitivity_sums[module] += value
            stats.samples += 1
            stats.losses.append(one.loss)
    return own


class _Pass:
    """One sample's way forward: its loss, and X of every module, kept once where modules see the same array."""

    def __init__(self, model: Model, shapes: Shapes, sample: Sample, number: int) -> None:
        self.model, self.shapes, self.number = model, shapes, number
        seen = ModuleInputs(shapes)
        view = model.watching([f"{module}.weight" for module in shapes]).observing(seen)
        self.output = view(**sample_inputs(sample, number))
        self.loss = self.output.loss.item()
        self.leader = seen.leader
        self.inputs = {module: seen.of[module] for module in self.leader.values()}
        if not math.isfinite(self.loss):
            raise NumericsError(
                f"calibration sample {number}: the loss is {self.loss}; check the weights and the sample"
            )

    def line_8(self) -> dict[str, float]:
        """Eq. 5's term of every module: each gradient becomes one number as soon as it is complete."""
        found: dict[str, Array] = {}

        def reduce_to_one(name: str, dW: Array) -> None:
            module = name.removesuffix(".weight")
            found[module] = blocked_sensitivity(self.model.weight(module), dW)

        backward(self.output.loss, reduce_to_one)
        missing = [module for module in self.shapes if module not in found or module not in self.leader]
        if missing:
            raise ConfigError(
                f"the loss of sample {self.number} does not depend on the target module(s) {', '.join(missing)}"
            )
        together = array_module(*found.values()).stack([found[module] for module in self.shapes])
        return dict(zip(self.shapes, to_numpy(together).tolist(), strict=True))  # a device is waited for once


def _line_9(stats: CalibrationStats, module: str, passes: Sequence[_Pass]) -> None:
    """Adds X^T X of one module and all these samples."""
    rows = [x.reshape(-1, x.shape[-1]) for one in passes for x in one.inputs[module]]  # (T_n, d_in) each
    if stats.centre:
        rows = [centred(X) for X in rows]
    add_second_moment(stats.covariance_sums[module], concatenate(rows))


def sample_inputs(sample: Sample, number: int) -> dict[str, Any]:
    """The arguments of the model's call that a sample holds."""
    for field in ("input_ids", "labels"):
        if field not in sample:
            raise DataError(f'sample {number} has no "{field}": a sample is {{"input_ids": [...], "labels": [...]}}')
    return {field: sample[field] for field in SAMPLE_FIELDS if field in sample}


def calibration_memory(model: Model, samples: Sequence[Sample], targets: str | Sequence[str] | None = None) -> int:
    """Bytes that the covariance sums will take, from one forward pass that finds which modules share an input.

    Two sums exist at a time: the total, and that of the block at work.
    """
    shapes = model.shapes(targets)
    seen = ModuleInputs(shapes)
    model.watching([]).observing(seen)(**sample_inputs(samples[0], 0))
    widths = [shapes[leader][1] for leader in set(seen.leader.values())]
    return 2 * sum(width * width for width in widths) * model.dtype.itemsize
