"""The training loop: gradients of the trained arrays, AdamW, a schedule, and a state that resumes bit for bit."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.backend import Array, array_module, to_numpy
from tlora_ref.data import batches, pack_batch, pad_batch
from tlora_ref.errors import ConfigError, DataError, NumericsError
from tlora_ref.method.adamw import adamw_step, clip_factor
from tlora_ref.training.evaluate import evaluate
from tlora_ref.training.halved import in_halves
from tlora_ref.training.history import Record
from tlora_ref.training.keeping import Saving, check_kept, check_kept_steps, evaluated, kept_arrays, out_of_patience
from tlora_ref.training.packing import check_packing
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.training.settings import TrainSettings
from tlora_ref.training.state import TrainState, load_state
from tlora_ref.training.steps import check_step, clear_steps
from tlora_ref.transformer import Model

Sample = Mapping[str, Any]
Batch = dict[str, Any]

#: A run saves its state at least so often, in seconds: what a power cut may cost.
SAVE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes
    ----------
    history : one entry a step: step, lr, loss, tokens, grad_norm; valid_loss where evaluated
    steps, seconds : how many steps were made, and how long they took
    kept : the step whose arrays the adapter holds: the one of least held-out loss, or the last
    """

    history: list[dict[str, Any]]
    steps: int
    seconds: float
    kept: int

    def __repr__(self) -> str:
        losses = [f"{entry['loss']:.4f}" for entry in self.history]
        span = f", loss {losses[0]} at first, {losses[-1]} at last" if losses else ""
        return f"TrainResult({self.steps} steps in {self.seconds:.1f} s{span})"

    @property
    def loss(self) -> float:
        """Training loss of the last step."""
        return float(self.history[-1]["loss"])


def train(
    model: Model,
    adapter: Adapter | None,
    data: Sequence[Sample],
    *,
    valid: Sequence[Sample] | None = None,
    eval_every: int | None = None,
    out: str | Path | None = None,
    save_every: int | None = None,
    save_seconds: float = SAVE_SECONDS,
    keep: str = "best",
    keep_last: int | None = None,
    save_adapter: Callable[[Path], object] | None = None,
    patience: int | None = None,
    log_every: int = 1,
    resume: bool = False,
    from_step: int | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    settings: TrainSettings | None = None,
    **changes: Any,
) -> TrainResult:
    """Train `adapter` on `data` in place (or every weight of `model`, for trainable="all" with adapter None).

    The adapter is attached to the model and stays attached. W_0, and A unless it is trained, keep every bit.

    Parameters
    ----------
    data, valid : samples {"input_ids", "labels"}, 1-D
    eval_every : evaluate `valid` every so many steps; it is evaluated after the last step in any case
    out : folder for the state file, written at the end and on Ctrl-C, every `save_every` steps, and where the last time
        is more than `save_seconds` ago; for the history, a line a step; and for metrics.csv, a row every `log_every`
    keep : "best", and the adapter ends with the arrays of least held-out loss; or "last". Where nothing is held out, or
        evaluated at the end alone, these are the same
    patience : stop after so many evaluations in a row that were no better than the best; None for never
    keep_last, save_adapter : keep the last so many of the states that are saved, each in out/checkpoints/step-N;
        `save_adapter` is called with a folder to write there, while the adapter holds the arrays of that step
    resume : continue from the state in `out`, or from that of `from_step`, which `keep_last` kept; the run ends
        bit-identical to one that was never stopped. It may be a longer one than was planned, where the steps already
        made would have had the same learning rates
    on_step : called with each step's history entry; `entry["best"]` where the held-out loss is the least so far
    settings, changes : a TrainSettings, or its fields by keyword (lr=..., steps=..., ...)

    Raises
    ------
    ConfigError, DataError, NumericsError, OutputError, CheckpointError
    """
    plan = replace(settings or TrainSettings(), **_tupled(changes))
    if eval_every and not valid:
        raise ConfigError("eval_every says how often held-out samples are evaluated, and there are none: give `valid`")
    check_kept(keep)
    check_kept_steps(keep_last, from_step, resume=resume)
    folder = None if out is None else Path(out)
    stored = folder if folder is None or from_step is None else check_step(folder, from_step)
    state, identity = _begin(model, adapter, data, plan, stored if resume else None)
    if folder is not None and keep_last is not None and not resume:
        clear_steps(folder)
    total = plan.total_steps(len(data))
    started = time.perf_counter()
    save = Saving(folder, identity, save_every, save_seconds, started, keep_last, save_adapter)
    record = Record(folder, plan.steps_per_epoch(len(data)), total, log_every)
    record.begin(state.history)
    if resume and from_step is None:
        save.keep(state)  # a killed run may have saved this state and not come to keeping it
    pad = getattr(model.config, "pad_token_id", None) or 0
    ended = bool(valid) and out_of_patience(state.history, patience)  # resumed after it had ended for want of patience
    try:
        for micro_batches in () if ended else step_batches(data, plan, state.step, total, pad):
            made = _step(model, state, micro_batches, plan, total)
            install(made.arrays, model, adapter)
            last = made.step == total
            if valid and (last or (eval_every and made.step % eval_every == 0)):
                made = evaluated(made, evaluate(model, valid, batch_size=plan.batch_size).loss)
                last = last or out_of_patience(made.history, patience)
            state = made  # not before: stopped while it is evaluated, a step is made again by the resumed run
            if last or save.due(state.step):
                save(state)
            record.add(state.history[-1])
            if on_step is not None:
                on_step(state.history[-1])
            if last:
                break
    except KeyboardInterrupt:
        install(state.arrays, model, adapter)
        save(state)
        raise
    kept, arrays = kept_arrays(state, keep)
    install(arrays, model, adapter)
    return TrainResult(state.history, state.step, time.perf_counter() - started, kept)


def _begin(
    model: Model, adapter: Adapter | None, data: Sequence[Sample], plan: TrainSettings, stored: Path | None
) -> tuple[TrainState, dict[str, Any]]:
    """The state to start from, installed and attached, and what identifies the run."""
    if not data:
        raise DataError("there are no training samples")
    plan.check_rates(len(data))
    check_packing(model, data, plan.packing)
    model.detach()
    arrays, identity = trained_arrays(model, adapter, plan), _identity(plan, data)
    state = TrainState.start(arrays) if stored is None else _resumed(stored, identity, arrays, plan)
    if adapter is not None:
        adapter.frozen_A = plan.trainable == "B"  # what the adapter's files will say
        model.attach(adapter)
    install(state.arrays, model, adapter)
    return state, identity


def _resumed(stored: Path, identity: dict[str, Any], arrays: dict[str, Array], plan: TrainSettings) -> TrainState:
    """The stored state, if a run of the length asked for now would have come to it too."""
    state, then = load_state(stored, identity, arrays, free=frozenset(("steps", "epochs")))
    before = replace(plan, steps=then.get("steps"), epochs=then.get("epochs") or 1.0)
    totals = [run.total_steps(identity["samples"]) for run in (before, plan)]
    if any(plan.rate(step, totals[0]) != plan.rate(step, totals[1]) for step in range(state.step)):
        raise ConfigError(
            f"{stored}: this run was planned for {totals[0]} steps, and with its {plan.schedule} schedule the "
            f"{state.step} steps that it has made would have had other learning rates in a run of {totals[1]}. "
            "Resume it as it was planned, or start a new run from its adapter. A run that may be prolonged has the "
            "constant schedule, and its warm-up in steps (or none)"
        )
    return state


def _tupled(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}


def _identity(plan: TrainSettings, data: Sequence[Sample]) -> dict[str, Any]:
    """What a stored state must agree with to be resumed: the settings and the data."""
    digest = hashlib.sha256()
    for sample in data:
        digest.update(json.dumps({k: np.asarray(sample[k]).tolist() for k in sorted(sample)}).encode())
    return {**plan.to_dict(), "samples": len(data), "data_sha256": digest.hexdigest()}


def step_batches(data: Sequence[Sample], plan: TrainSettings, done: int, total: int, pad: int) -> Iterator[list[Batch]]:
    """The micro-batches of every optimizer step after the first `done`, in an order that follows from the seed."""
    per_epoch = plan.steps_per_epoch(len(data))
    lengths = [len(sample["input_ids"]) for sample in data] if plan.group_by_length else None
    step = done
    while step < total:
        epoch, first = divmod(step, per_epoch)
        order = list(batches(data, plan.batch_size, seed=plan.seed, epoch=epoch, lengths=lengths))
        for position in range(first, per_epoch):
            if step == total:
                return
            group = order[position * plan.grad_accumulation : (position + 1) * plan.grad_accumulation]
            if plan.packing is None:
                yield [pad_batch(samples, pad) for samples in group]
            else:
                yield [pack_batch(samples, plan.packing, pad) for samples in group]
            step += 1


def _step(model: Model, state: TrainState, micro_batches: list[Batch], plan: TrainSettings, total: int) -> TrainState:
    """One optimizer step: a new state."""
    found = step_gradients(model, state.arrays, micro_batches)
    if not math.isfinite(found.loss):
        raise NumericsError(
            f"training step {state.step + 1}: the loss is {found.loss}. Lower the learning rate ({plan.lr}) or clip "
            "the gradient (max_grad_norm)"
        )
    return apply_gradients(state, found, plan, total)


@dataclass(frozen=True)
class StepGradients:
    """The gradient of the mean loss over all labels of a step, by array; that loss; the labels; the gradients' norm."""

    arrays: dict[str, Array] = field(repr=False)
    loss: float
    tokens: int
    norm: float


def step_gradients(model: Model, arrays: Mapping[str, Array], micro_batches: Sequence[Batch]) -> StepGradients:
    """Forward and backward of one step. The host waits for the device once: for the losses and the norm together."""
    view = model.watching(arrays)
    tokens = 0
    losses: list[Array] = []
    gradients: dict[str, Array] = {}

    def summed(batch: Batch) -> tuple[dict[str, Array], Array, int]:
        output = view(**batch, loss_divisor=1.0)  # the sum: it is divided once, by all labels of the step
        return grad(output.loss, arrays), output.loss.data, output.tokens

    # where most weights are trained each half would have a gradient of each
    halved = 4 * sum(array.size for array in arrays.values()) <= model.parameter_count()
    for batch in micro_batches:
        for part, loss, scored in in_halves(summed, batch, model.device) if halved else [summed(batch)]:
            gradients = {n: part[n] + gradients[n] for n in part} if gradients else part
            losses.append(loss)
            tokens += scored
    gradients = {name: g * (1.0 / tokens) for name, g in gradients.items()}
    xp = array_module(losses[0])
    squares = xp.stack([(g * g).sum() for g in gradients.values()]).sum()
    *sums, square = to_numpy(xp.stack([*losses, squares])).tolist()
    return StepGradients(gradients, sum(sums) / tokens, tokens, math.sqrt(square))


def apply_gradients(state: TrainState, found: StepGradients, plan: TrainSettings, total: int) -> TrainState:
    """The state after one step of AdamW along the gradients, clipped if the settings say so."""
    gradients = found.arrays
    if plan.max_grad_norm is not None:
        factor = clip_factor(found.norm, plan.max_grad_norm)
        gradients = {name: g * factor for name, g in gradients.items()} if factor < 1.0 else gradients
    lr = plan.rate(state.step, total)
    updated = {
        name: adamw_step(
            W,
            gradients[name],
            state.exp_avg[name],
            state.exp_avg_sq[name],
            step=state.step + 1,
            lr=lr,
            betas=plan.betas,
            eps=plan.eps,
            weight_decay=plan.weight_decay,
        )
        for name, W in state.arrays.items()
    }
    entry = {"step": state.step + 1, "lr": lr, "loss": found.loss, "tokens": found.tokens, "grad_norm": found.norm}
    new, exp_avg, exp_avg_sq = ({name: parts[i] for name, parts in updated.items()} for i in range(3))
    return TrainState(state.step + 1, new, exp_avg, exp_avg_sq, [*state.history, entry], state.best)
