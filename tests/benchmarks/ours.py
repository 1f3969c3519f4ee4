"""Our side of every row: `prepare` returns a function that does the work once and returns a number to compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import tlora_ref as tr
from tests.benchmarks.cases import LAYERS, NEW_TOKENS, RANK, Case, inputs
from tlora_ref.backend import get_device
from tlora_ref.training.evaluate import summed_loss
from tlora_ref.training.loop import apply_gradients, step_gradients
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.training.state import TrainState
from tlora_ref.transformer import Model

Work = Callable[[], float]


def prepare(case: Case, folder: Path, device: str = "cpu", hold: str | None = None, *, recompute: bool = False) -> Work:
    """The work of `case` on the model in `folder`, ready to be timed. `device` and `hold` are `tr.load_model`'s."""
    model = tr.load_model(folder / "model", dtype="float32", device=device, hold=hold)
    model.recompute = model.recompute or recompute
    ids = inputs(case, model.config.vocab_size)
    adapter = tr.load_peft(folder / "adapter", model)
    return {
        "forward": forward,
        "train step": train_step,
        "calibration": calibration,
        "initialisation": initialisation,
        "decode": decode,
    }[case.row](model, adapter, ids)


def wait_for(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device == "gpu":
        get_device(device).xp.cuda.Device().synchronize()


def forward(model: Model, adapter: tr.Adapter, ids: np.ndarray) -> Work:
    """The loss of a batch, every token labelled, the adapter attached, no gradients, as `tr.evaluate` forms it."""
    model.attach(adapter)
    view = model.watching([])

    def mean_loss() -> float:
        loss, tokens = summed_loss(view, {"input_ids": ids, "labels": ids})
        return loss / tokens

    return mean_loss


def train_step(model: Model, adapter: tr.Adapter, ids: np.ndarray) -> Work:
    """Forward, backward and AdamW on B, as `tr.train` does a step."""
    plan = tr.TrainSettings(batch_size=len(ids), steps=1000, lr=1e-4, schedule="constant", warmup_ratio=0.0)
    state = TrainState.start(trained_arrays(model, adapter, plan))
    model.attach(adapter)

    def step() -> float:
        nonlocal state
        found = step_gradients(model, state.arrays, [{"input_ids": ids, "labels": ids}])
        state = apply_gradients(state, found, plan, 1000)
        install(state.arrays, model, adapter)
        return found.loss

    return step


def calibration(model: Model, adapter: tr.Adapter, ids: np.ndarray) -> Work:
    """Algorithm 1, lines 4 to 11: the sum of the losses."""
    samples = [{"input_ids": row, "labels": row} for row in ids]
    return lambda: sum(tr.calibrate(model, samples).losses)


def initialisation(model: Model, adapter: tr.Adapter, ids: np.ndarray) -> Work:
    """Lines 16 and 17 for the modules of the first layers: the sum of their largest singular values."""
    stats = tr.calibrate(
        model, [{"input_ids": ids[0], "labels": ids[0]}], targets=rf"model\.layers\.[0-{LAYERS - 1}]\..*_proj"
    )
    plan = tr.allocate(dict.fromkeys(stats.shapes, 1.0), stats.shapes, RANK, RANK)
    return lambda: float(sum(sigma[0] for sigma in tr.initialize(model, stats, plan).sigma.values()))


def decode(model: Model, adapter: tr.Adapter, ids: np.ndarray) -> Work:
    """Greedy tokens from a prompt: the sum of their ids."""
    return lambda: float(model.generate(ids, max_new_tokens=NEW_TOKENS, eos_token_id=-1)[:, ids.shape[1] :].sum())
