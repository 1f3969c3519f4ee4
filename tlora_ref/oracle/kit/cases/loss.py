# ruff: noqa: E501 (one case a line)
"""Cases of the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()


def _labels(m: Maker, tokens: int, vocabulary: int, ignored: int = 0) -> Array:
    """Labels (tokens,), the first `ignored` of them -100, at least the last one scored."""
    labels = [m.pick(*range(vocabulary)) for _ in range(tokens)]
    return np.array([-100] * ignored + labels[ignored:], dtype=np.int64)


def _loss(
    m: Maker, *, tokens: int | None = None, ignored: int = 0, factor: float = 1.0, scatter: bool = False
) -> Inputs:
    tokens, vocabulary = (tokens, m.size(2, 7)) if tokens else m.sides(2 + ignored)
    labels = _labels(m, tokens, vocabulary, ignored)
    if scatter:  # -100 anywhere but at the end, so that the mean is over fewer than all
        labels[: tokens - 1] = np.where([m.pick(False, True) for _ in range(tokens - 1)], -100, labels[: tokens - 1])
    return {"logits": m.array(tokens, vocabulary) * factor, "labels": labels}


def _equal_logits(m: Maker) -> Inputs:
    inputs = _loss(m)
    return inputs | {"logits": np.zeros_like(inputs["logits"])}


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("loss/typical", "mean cross entropy, labels shifted by one inside", lambda m: _loss(m)),
    ("loss/prompt-unscored", "labels of -100 at the front are not scored", lambda m: _loss(m, ignored=2)),
    ("loss/scattered-labels", "labels of -100 anywhere: the mean is over the scored ones", lambda m: _loss(m, scatter=True)),
    ("loss/one-scored-token", "two tokens: the first predicts the second", lambda m: _loss(m, tokens=2)),
    ("loss/equal-logits", "log V, whatever the labels", _equal_logits),
    ("loss/large-logits", "log-sum-exp does not overflow", lambda m: _loss(m, factor=512.0)),
]  # fmt: skip
