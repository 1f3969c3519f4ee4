"""The whole population, the golden runs it is held against, and the measurement of a verdict on each of its members."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tlora_ref as tr
from tests.oracle.adversary.functions import checked, stages_of
from tests.oracle.adversary.mistakes_loop import LOOP
from tests.oracle.adversary.mistakes_method import METHOD
from tests.oracle.adversary.mistakes_model import DATA, MODEL, Mistake
from tests.oracle.adversary.run import candidate
from tests.tiny import tiny_llama
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.checks import KitReport
from tlora_ref.oracle.reports.comparison import FULL, Report
from tlora_ref.training import TrainSettings
from tlora_ref.transformer import Model

torch.set_num_threads(1)

#: "mixed" is a model in bfloat16 with its adapters, and their optimizer, in float32.
PRECISIONS = ("float64", "float32", "bfloat16", "mixed")
#: The precisions that `check` is asked in: torch's AdamW in bfloat16 rounds more often than the kit's bfloat16 says.
CHECKED = ("float64", "float32")
#: Who judges: `verify` with the checkpoint, `verify` without, `check`.
WITH, WITHOUT, CHECK = WAYS = ("with", "without", "check")
MISTAKES = [*MODEL, *DATA, *METHOD, *LOOP]
#: Mistakes below the rounding of a precision: nothing can see them there.
BELOW_BFLOAT16 = {
    *("norm eps 1e-5", "softmax of half precision", "C off by 1e-3", "S off by 1e-3", "scales off by 1e-3"),
    *("C in float16", "down_proj off by 1e-3", "gradients in float16, times 1e-4", "merged in float16", "S of means"),
}
BELOW: dict[str, set[str]] = {
    "mixed": BELOW_BFLOAT16,
    "bfloat16": {
        *BELOW_BFLOAT16,
        *("lr off by 1e-5", "lr off by 1e-3", "eps 1e-6", "AMSGrad in exp_avg_sq"),
        # 1 - lr wd is 0.999: a weight times that, rounded to bfloat16, is the weight
        *("wd 0", "wd a tenth", "wd 0.03 of what it is", "wd after the update", "wd squared away"),
    },
}


def tiny() -> tuple[Model, list[dict[str, Any]]]:
    """A Llama of 2 layers, width 32 and 61 tokens, of weights that bfloat16 holds, and four samples."""
    made = tiny_llama(seed=36, hidden_size=32, intermediate_size=48, vocab_size=61)
    rounded = Precision.of("bfloat16").rounded
    model = type(made)(made.config, {name: rounded(x) for name, x in made.tensors.items()})
    rng, samples = np.random.default_rng(12), []
    for length in (9, 17, 12, 14):
        ids = rng.integers(4, 61, length).tolist()  # 0 pads
        samples.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})
    return model, samples


def goldens(
    folder: Path, model: Model, samples: list[dict[str, Any]], names: Iterable[str] = ("plain", "warm", "small")
) -> dict[str, Path]:
    """Golden traces: `plain` with a falling rate and clipping, `warm` with a warm-up, `small` with ranks of 0."""
    settings: dict[str, Any] = {"batch_size": 2, "lr": 1e-2, "schedule": "linear", "weight_decay": 0.1}
    plans = {
        "plain": TrainSettings(**settings, warmup_ratio=0.0, max_grad_norm=0.05),
        "warm": TrainSettings(**settings, warmup_ratio=0.5),
        "small": TrainSettings(**settings, warmup_ratio=0.0),
    }
    for name in names:
        r_init = 1 if name == "small" else 3
        tr.trace(model, samples, folder / name, r_init=r_init, alpha=4.0, steps=4, settings=plans[name])
    return {name: folder / name for name in names}


@dataclass(frozen=True)
class Outcome:
    """What one of WAYS, `way`, said of one member of the population."""

    mistake: Mistake
    precision: str
    way: str
    planted: str  # the stage that must be the first to fail
    report: Report | KitReport
    refused: str = ""  # an error in the place of a verdict

    @property
    def caught(self) -> bool:
        return not self.report.passed and not self.refused

    @property
    def told(self) -> bool:
        """Let pass, with the verdict saying that it did not judge the planted stage in full."""
        judged = self.report.coverage[self.planted] if isinstance(self.report, Report) else FULL
        return not self.caught and judged != FULL

    @property
    def stage_right(self) -> bool:
        return self.report.first_failing == self.planted

    @property
    def named(self) -> bool:
        return self.report.cause is not None

    @property
    def cause_right(self) -> bool:
        pattern, cause = self.mistake.cause, self.report.cause
        return pattern is not None and cause is not None and re.search(pattern, cause) is not None


def measured(
    mistakes: Iterable[Mistake], precisions: Iterable[str], folder: Path, ways: Sequence[str] = WAYS
) -> Iterator[Outcome]:
    """The verdict on every mistake in every precision, by `verify` with the checkpoint and without, and by `check`."""
    mistakes, precisions = list(mistakes), list(precisions)
    whole = [way for way in ways if way != CHECK]
    if whole:
        yield from _whole_runs(mistakes, precisions, folder, whole)
    if CHECK in ways:
        for mistake, precision, report in checked(mistakes, [p for p in precisions if p in CHECKED]):
            yield Outcome(mistake, precision, CHECK, stages_of(mistake)[0], report)


def _whole_runs(mistakes: list[Mistake], precisions: list[str], folder: Path, ways: Sequence[str]) -> Iterator[Outcome]:
    model, samples = tiny()
    golden = goldens(folder, model, samples)
    for mistake in mistakes:
        for precision in precisions:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kept = ("bfloat16", torch.float32) if precision == "mixed" else (precision, None)
                candidate(golden[mistake.golden], folder / "c", model, kept[0], mistake.made(), kept[1])
            for way in ways:
                checkpoint = model if way == WITH else None
                try:
                    report = tr.compare(golden[mistake.golden], folder / "c", checkpoint=checkpoint)
                    yield Outcome(mistake, precision, way, mistake.stage, report)
                except tr.TLoRAError as error:
                    yield Outcome(mistake, precision, way, mistake.stage, Report([]), str(error))
