"""Held-out loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlora_ref.backend import Array
from tlora_ref.data import pad_batch
from tlora_ref.errors import DataError, NumericsError
from tlora_ref.training.halved import in_halves
from tlora_ref.transformer import Model


@dataclass(frozen=True)
class Evaluation:
    """`loss`: cross entropy a scored label, in nats; `tokens`: how many labels were scored."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def evaluate(model: Model, samples: Sequence[Mapping[str, Any]], *, batch_size: int = 8) -> Evaluation:
    """The mean loss over all scored labels of `samples`: one sum, divided once, whatever the batch size.

    Raises DataError without samples, NumericsError if the loss is not finite.
    """
    if not samples:
        raise DataError("there are no samples to evaluate on")
    view = model.watching([])
    pad = getattr(model.config, "pad_token_id", None) or 0
    total, tokens = 0.0, 0
    for batch in held_out_batches(samples, batch_size, pad):
        loss, scored = summed_loss(view, batch)
        total += loss
        tokens += scored
    if not math.isfinite(total):
        raise NumericsError(
            f"the loss on {len(samples)} samples is {total / tokens}: the weights or the adapter give logits that are "
            "not finite"
        )
    return Evaluation(total / tokens, tokens)


def summed_loss(view: Model, batch: dict[str, Array]) -> tuple[float, int]:
    """The losses of a batch in nats, summed over its scored labels, and how many these are.

    view : a model that watches nothing (`model.watching([])`)
    """

    def of(part: dict[str, Array]) -> tuple[float, int]:
        output = view(**part, loss_divisor=1.0)
        return output.loss.item(), output.tokens

    losses, tokens = zip(*in_halves(of, batch, view.device), strict=True)
    return sum(losses), sum(tokens)


def held_out_batches(samples: Sequence[Mapping[str, Any]], batch_size: int, pad: int) -> Iterator[dict[str, Array]]:
    """The batches that `evaluate` goes through: of like length, so that there is little padding."""
    by_length = sorted(samples, key=lambda sample: len(sample["input_ids"]))
    for start in range(0, len(by_length), batch_size):
        yield pad_batch(by_length[start : start + batch_size], pad)


def likelihoods(model: Model, samples: Sequence[Mapping[str, Any]]) -> list[tuple[float, int]]:
    """(log-probability of a sample's scored tokens in nats, how many they are), sample by sample."""
    view = model.watching([])
    found = []
    for sample in samples:
        loss, tokens = summed_loss(view, pad_batch([sample]))
        found.append((-loss, tokens))
    return found
