"""The whole population, the golden runs it is held against, and the measurement of a verdict on each of its members."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
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
from tlora_ref.oracle.reports.checks import FAILED, KitReport
from tlora_ref.oracle.reports.comparison import FULL, Report
from tlora_ref.oracle.reports.finding import FAIL
from tlora_ref.training import TrainSettings
from tlora_ref.transformer import Model

torch.set_num_threads(1)

#: "mixed" is a model in bfloat16 with its adapters, and their optimizer, in float32.
PRECISIONS = ("float64", "float32", "bfloat16", "mixed")
#: The precisions that `check` is asked in: torch's AdamW in bfloat16 rounds more often than the kit's bfloat16 says.
CHECKED = ("float64", "float32")
#: Who judges: `verify` with the checkpoint, `verify` without, `check`.
WITH, WITHOUT, CHECK = WAYS = ("with", "without", "check")
#: Of an outcome: mistake, precision, way.
Key = tuple[str, str, str]
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
        # and so, bit for bit, is the weight of each of these the right one
        *("wd twice", "wd added", "wd times the peak lr", "B normed"),
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
    """What one of WAYS, `way`, said of one member of the population.

    Attributes
    ----------
    planted : the stage that must be the first to fail
    failing : the stages that are wrong by themselves
    told : let pass, with the verdict saying that it did not judge the planted stage in full
    refused : an error in the place of a verdict
    """

    mistake: Mistake
    precision: str
    way: str
    planted: str
    passed: bool
    first_failing: str | None = None
    failing: Sequence[str] = ()
    cause: str | None = None
    told: bool = False
    refused: str = ""

    @staticmethod
    def of(mistake: Mistake, precision: str, way: str, planted: str, report: Report | KitReport) -> Outcome:
        passed = report.passed
        told = passed and isinstance(report, Report) and report.coverage[planted] != FULL
        wrong = report.of(FAIL if isinstance(report, Report) else FAILED)
        failing = sorted({finding.stage for finding in wrong})
        return Outcome(mistake, precision, way, planted, passed, report.first_failing, failing, report.cause, told)

    @property
    def key(self) -> Key:
        return self.mistake.name, self.precision, self.way

    @property
    def caught(self) -> bool:
        return not self.passed and not self.refused

    @property
    def stage_right(self) -> bool:
        return self.first_failing == self.planted

    @property
    def named(self) -> bool:
        return self.cause is not None

    @property
    def cause_right(self) -> bool:
        pattern = self.mistake.cause
        return pattern is not None and self.cause is not None and re.search(pattern, self.cause) is not None

    def to_json(self) -> str:
        """A line of a file of outcomes."""
        return json.dumps({**vars(self), "mistake": self.mistake.name})


def read(file: Path) -> list[Outcome]:
    """The outcomes that a file holds, of mistakes that are still there."""
    by_name = {mistake.name: mistake for mistake in MISTAKES}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    return [Outcome(**{**line, "mistake": by_name[line["mistake"]]}) for line in lines if line["mistake"] in by_name]


def measured(
    mistakes: Iterable[Mistake],
    precisions: Iterable[str],
    folder: Path,
    ways: Sequence[str] = WAYS,
    known: Collection[Key] = (),
) -> Iterator[Outcome]:
    """The verdict on every mistake in every precision, by `verify` with the checkpoint and without, and by `check`.

    What is `known` is left out.
    """
    mistakes, precisions = list(mistakes), list(precisions)
    asked = {key for key in product([m.name for m in mistakes], precisions, ways) if key not in known}
    if any(way != CHECK for _, _, way in asked):
        yield from _whole_runs(mistakes, precisions, folder, asked)
    for mistake in mistakes if CHECK in ways else ():
        of_functions = [p for p in precisions if p in CHECKED and (mistake.name, p, CHECK) in asked]
        for precision, report in checked(mistake, of_functions):
            yield Outcome.of(mistake, precision, CHECK, stages_of(mistake)[0], report)


def _whole_runs(mistakes: list[Mistake], precisions: list[str], folder: Path, asked: set[Key]) -> Iterator[Outcome]:
    model, samples = tiny()
    golden = goldens(folder, model, samples)
    for mistake, precision in product(mistakes, precisions):
        ways = [way for way in (WITH, WITHOUT) if (mistake.name, precision, way) in asked]
        if not ways:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kept = ("bfloat16", torch.float32) if precision == "mixed" else (precision, None)
            candidate(golden[mistake.golden], folder / "c", model, kept[0], mistake.made(), kept[1])
        for way in ways:
            checkpoint = model if way == WITH else None
            try:
                report = tr.compare(golden[mistake.golden], folder / "c", checkpoint=checkpoint)
                yield Outcome.of(mistake, precision, way, mistake.stage, report)
            except tr.TLoRAError as error:
                yield Outcome(mistake, precision, way, mistake.stage, False, refused=str(error))
