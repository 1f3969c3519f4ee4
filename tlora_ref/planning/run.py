"""Time and memory of a whole run on this machine: parts of it done now, and scaled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from tlora_ref.data import choose_samples, sample_form
from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import MemoryPlan
from tlora_ref.planning.shallow import Kept, depth, layer_weights
from tlora_ref.planning.time import Work, counted, measured
from tlora_ref.training import TrainSettings, check_packing, held_out_batches, step_batches
from tlora_ref.transformer import Model

Sample = Mapping[str, Any]

#: Weights of a layer beyond which operations are counted and nothing is measured.
LAYER_WEIGHTS = 150_000_000
#: Steps whose batches are looked at.
LOOKED_AT = 2000
#: Samples of a block of calibration; blocks but the first have sums of their own beside those of all before.
BLOCK = 8


@dataclass(frozen=True)
class RunPlan:
    """About what a run takes on this machine, as busy as it is now; reading and writing files left out.

    Attributes
    ----------
    seconds : {"calibration", "initialisation", "step", "evaluation": ...}, the last of all held-out rows once
    peak_bytes : {"calibration", "training": ...}, of the process at its largest batch
    steps : of the run; None where nothing says how many
    evaluations : how many times the held-out rows are evaluated
    rows, tokens : of a forward pass, on average; the tokens are those of a row with its padding
    sample_tokens : of a sample that calibrates, on average
    flop : {"calibration", "initialisation": ...}, floating-point operations
    measured : whether parts were done here; else operations were counted
    """

    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    steps: int | None
    evaluations: int
    rows: float
    tokens: float
    sample_tokens: float
    flop: dict[str, float]
    measured: bool

    @property
    def total_seconds(self) -> float | None:
        """Of the whole run."""
        if self.steps is None:
            return None
        took = self.seconds
        trained = self.steps * took["step"] + self.evaluations * took["evaluation"]
        return took["calibration"] + took["initialisation"] + trained

    @property
    def peak(self) -> int:
        """Bytes of the process at most."""
        return max(self.peak_bytes.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "total_seconds": self.total_seconds, "peak": self.peak}


def plan_run(
    memory: MemoryPlan,
    data: Sequence[Sample] | None = None,
    valid: Sequence[Sample] = (),
    *,
    tokens: int = 512,
    samples: int = 32,
    workers: int = 1,
    eval_every: int | None = None,
    dtype: str = "float32",
    hold: str | None = None,
    recompute: bool = False,
    settings: TrainSettings | None = None,
) -> RunPlan:
    """About how long a run takes here, and what it holds at once.

    Two layers of random weights run forth and back over a few of the run's own rows, and a part of the output layer;
    a small model runs whole. That takes seconds, and the memory of a layer. A model of very large layers is reckoned
    by its operations.

    Parameters
    ----------
    data, valid : samples to train on and held out; without data, rows of `tokens` tokens, all of them scored
    samples, workers : how many samples calibrate, on how many machines like this one
    eval_every : as `train` has it; by default once an epoch
    recompute : as `Model` has it: what MLPs have inside is computed again on the way back
    settings : as `train` has them; without data and `steps`, the length of the run is not known

    Raises
    ------
    ConfigError
        for a count below 1, a model that has no loss, or one whose samples cannot be packed as the settings say.
    """
    for name, value in (("tokens", tokens), ("samples", samples), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: expected at least 1")
    settings = settings or TrainSettings()
    model = memory.family(memory.settings, {})
    chosen = data or _rows(model, memory.sample_tokens(tokens), settings.batch_size * settings.grad_accumulation)
    check_packing(model, chosen, settings.packing)
    total = settings.total_steps(len(data)) if data else settings.steps
    per_epoch = settings.steps_per_epoch(len(chosen))
    kept = Kept(dtype, hold, recompute)
    work = _work(memory, chosen, valid, samples, settings, min(total or 1, per_epoch, LOOKED_AT), kept)
    own = _own_bytes()
    by_measuring = layer_weights(memory.family, memory.settings) <= LAYER_WEIGHTS * depth(memory.settings)
    took = measured(work) if by_measuring else counted(work)
    return RunPlan(
        seconds={**took.seconds, "calibration": took.seconds["calibration"] / workers},
        peak_bytes=_peaks(work, own, took.held),
        steps=total,
        evaluations=evaluations(total, eval_every or per_epoch) if total and valid else 0,
        **work.sizes(),
        flop=took.flop,
        measured=by_measuring,
    )


def _work(
    memory: MemoryPlan,
    data: Sequence[Sample],
    valid: Sequence[Sample],
    samples: int,
    settings: TrainSettings,
    looked_at: int,
    kept: Kept,
) -> Work:
    """The batches of the first `looked_at` steps, the samples that calibrate, the batches held out."""
    drawn, _ = choose_samples(data, min(samples, len(data)), settings.seed)
    steps = list(itertools.islice(step_batches(data, settings, 0, looked_at, 0), looked_at))
    passes = [batch for step in steps for batch in step]
    return Work(
        memory,
        passes,
        passes_a_step=len(passes) / len(steps),
        drawn=list(itertools.islice(itertools.cycle(drawn), samples)),
        valid=list(held_out_batches(valid, settings.batch_size, 0)),
        kept=kept,
    )


def evaluations(steps: int, every: int) -> int:
    """How many times a run takes its held-out loss: before all steps, every so many, and after the last."""
    return 1 + math.ceil(steps / every)


def _rows(model: Model, tokens: int, count: int) -> list[Sample]:
    """Samples of so many tokens."""
    ids = np.arange(2, 2 + tokens)
    return [{"input_ids": ids, "labels": np.array(0) if sample_form(model) == "classes" else ids}] * count


def _own_bytes() -> int:
    """Memory of this process, which a run's has too: Python, the libraries, the data."""
    return int(psutil.Process().memory_info().rss)


def _peaks(work: Work, own: int, held: Mapping[str, float]) -> dict[str, int]:
    """Bytes of the process in each part of the run: its own, what is known by counting, and what passes hold."""
    taken = work.memory.bytes(work.kept.dtype, work.kept.hold)
    trained = taken["adamw_moments"] // 2
    sums = taken["covariances"] * (1 if len(work.drawn) <= BLOCK else 2)
    known = {
        "calibration": sums,
        "training": taken["adapter"] + 2 * (taken["adamw_moments"] + trained),  # B and its moments, old and new
    }
    return {what: own + taken["weights"] + known[what] + int(held[what]) for what in known}
