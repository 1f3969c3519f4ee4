"""The settings of a training run, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.method.schedule import RESTARTS, SCHEDULES, learning_rate

TRAINABLE = ("B", "AB", "all")
#: What others call them.
SCHEDULES_ELSEWHERE = {
    **dict.fromkeys(("cosine_decay", "cosine_with_warmup", "cosine_with_min_lr", "cos"), "cosine"),
    **dict.fromkeys(("linear_with_warmup", "linear_decay", "polynomial"), "linear"),
    **dict.fromkeys(("constant_with_warmup", "none", "const", "fixed"), "constant"),
}


def _count(value: object) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _length(value: object) -> bool:
    return _count(value) and not isinstance(value, bool)


def _betas(values: object) -> bool:
    if not isinstance(values, tuple | list) or len(values) != 2:
        return False
    return all(_number(beta) and 0 <= beta < 1 for beta in values)


def _number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Where the paper is silent the values are torch's AdamW's and transformers' schedules'.

    Attributes
    ----------
    trainable : "B" (TLoRA: A frozen), "AB" (plain LoRA and the ablations), "all" (every weight of the model)
    also : names of whole tensors, or of modules, trained beside the adapter ("classifier", say)
    steps, epochs : how long; `steps` optimizer steps if given, else `epochs` passes over the data
    batch_size : samples of one forward pass; grad_accumulation : forward passes of one optimizer step
    lr, schedule, warmup_ratio : peak learning rate, its decay, and the share of the steps in which it rises from 0
    warmup_steps : how many steps it rises, in place of their share
    min_lr, cycles : where the cosine ends; how many cosines "cosine_with_restarts" makes
    group_by_length : samples of like length share batches: less padding, another order (see `data.batches`)
    packing : the samples of a forward pass share rows of up to so many tokens, apart from each other: less padding,
        and the same losses and gradients to rounding; None for a row each. Causal language models alone
    max_grad_norm : clip the norm of the whole gradient to this; None for no clipping
    """

    trainable: str = "B"
    also: tuple[str, ...] = ()
    steps: int | None = None
    epochs: float = 1.0
    batch_size: int = 8
    grad_accumulation: int = 1
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    min_lr: float = 0.0
    cycles: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float | None = None
    group_by_length: bool = False
    packing: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        clip = self.max_grad_norm
        checks: Sequence[tuple[str, bool, str]] = (
            ("trainable", self.trainable in TRAINABLE, f"one of {', '.join(TRAINABLE)}"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("steps", self.steps is None or _count(self.steps), "a positive integer"),
            ("epochs", _number(self.epochs) and self.epochs > 0, "a positive number"),
            ("batch_size", _count(self.batch_size), "a positive integer"),
            ("grad_accumulation", _count(self.grad_accumulation), "a positive integer"),
            ("lr", _number(self.lr) and self.lr >= 0, "a finite number, not negative"),
            ("warmup_ratio", _number(self.warmup_ratio) and 0 <= self.warmup_ratio <= 1, "a number from 0 to 1"),
            ("warmup_steps", self.warmup_steps in (None, 0) or _count(self.warmup_steps), "a whole number"),
            ("min_lr", _number(self.min_lr) and _number(self.lr) and 0 <= self.min_lr <= self.lr, "from 0 to lr"),
            ("min_lr", self.min_lr == 0 or self.schedule == "cosine", "0: the floor is the cosine schedule's alone"),
            ("cycles", _count(self.cycles), "a positive integer"),
            ("cycles", self.cycles == 1 or self.schedule == RESTARTS, f"1: only {RESTARTS} has more than one"),
            ("betas", _betas(self.betas), "two numbers from 0 to below 1"),
            ("eps", _number(self.eps) and self.eps > 0, "a positive number"),
            ("weight_decay", _number(self.weight_decay) and self.weight_decay >= 0, "a number, not negative"),
            ("packing", self.packing is None or _length(self.packing), "a length in tokens, or None"),
            ("max_grad_norm", clip is None or (_number(clip) and clip > 0), "a positive number"),
        )
        for name, good, expected in checks:
            if not good:
                hint = did_you_mean(self.schedule, SCHEDULES, SCHEDULES_ELSEWHERE) if name == "schedule" else ""
                raise ConfigError(f"training: {name} is {getattr(self, name)!r}, expected {expected}{hint}")

    def check_rates(self, samples: int) -> None:
        """ConfigError if every step on `samples` rows would have learning rate 0: a run that learns nothing.

        The first step of a warm-up has rate 0, as in transformers; a short run may have no other.
        """
        total = self.total_steps(samples)
        if self.lr > 0 and not any(self.rate(step, total) for step in range(total)):
            raise ConfigError(
                f"training: all {total} step(s) would have learning rate 0, because a warm-up begins at 0, so nothing "
                "would be learnt. Train for more steps, or without a warm-up: --warmup-ratio 0"
            )

    def rate(self, step: int, total: int) -> float:
        """The learning rate of optimizer step `step` (0 for the first) of `total`."""
        return learning_rate(
            step,
            total,
            self.lr,
            schedule=self.schedule,
            warmup_ratio=self.warmup_ratio,
            warmup=self.warmup_steps,
            min_lr=self.min_lr,
            cycles=self.cycles,
        )

    def total_steps(self, samples: int) -> int:
        """Optimizer steps for a dataset of `samples` rows (the last step of an epoch may be a smaller one)."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * self.steps_per_epoch(samples)))

    def steps_per_epoch(self, samples: int) -> int:
        return math.ceil(samples / (self.batch_size * self.grad_accumulation))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for manifests."""
        values = asdict(self)
        return {**values, "also": list(self.also), "betas": list(self.betas)}
