"""The settings of a training run, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tlora_ref.errors import ConfigError

TRAINABLE = ("B", "AB", "all")
SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Where the paper is silent the values are torch's AdamW's and transformers' schedules'.

    Attributes
    ----------
    trainable : "B" (TLoRA: A frozen), "AB" (plain LoRA and the ablations), "all" (every weight of the model)
    also : names of whole tensors trained beside the adapter (a classification head's, say)
    steps, epochs : how long; `steps` optimizer steps if given, else `epochs` passes over the data
    batch_size : samples of one forward pass; grad_accumulation : forward passes of one optimizer step
    lr, schedule, warmup_ratio : peak learning rate, its decay, and the share of the steps in which it rises from 0
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
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        checks: Sequence[tuple[str, bool, str]] = (
            ("trainable", self.trainable in TRAINABLE, f"one of {', '.join(TRAINABLE)}"),
            ("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            ("steps", self.steps is None or self.steps >= 1, "a positive integer"),
            ("epochs", self.epochs > 0, "a positive number"),
            ("batch_size", self.batch_size >= 1, "a positive integer"),
            ("grad_accumulation", self.grad_accumulation >= 1, "a positive integer"),
            ("lr", self.lr >= 0 and math.isfinite(self.lr), "a finite number, not negative"),
            ("warmup_ratio", 0 <= self.warmup_ratio <= 1, "a number from 0 to 1"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"),
            ("eps", self.eps > 0, "a positive number"),
            ("weight_decay", self.weight_decay >= 0, "a number, not negative"),
            ("max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "a positive number"),
        )
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"training: {name} is {getattr(self, name)!r}, expected {expected}")

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
