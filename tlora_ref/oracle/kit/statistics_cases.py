# ruff: noqa: E501 (one case a line)
"""Cases of what calibration gathers: the loss, the second moments, the sensitivities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.kit.values import Maker

Inputs = dict[str, Any]
REFUSED: frozenset[str] = frozenset()


def _labels(m: Maker, tokens: int, vocabulary: int, ignored: int = 0) -> Array:
    """Labels (tokens,), the first `ignored` of them -100, at least the last one scored."""
    labels = [m.pick(*range(vocabulary)) for _ in range(tokens)]
    return np.array([-100] * ignored + labels[ignored:], dtype=np.int64)


def _loss(
    m: Maker, *, tokens: int | None = None, ignored: int = 0, factor: float = 1.0, scatter: bool = False
) -> Inputs:
    tokens, vocabulary = tokens or m.size(2 + ignored, max(6, 3 + ignored)), m.size(2, 7)
    labels = _labels(m, tokens, vocabulary, ignored)
    if scatter:  # -100 anywhere but at the end, so that the mean is over fewer than all
        labels[: tokens - 1] = np.where([m.pick(False, True) for _ in range(tokens - 1)], -100, labels[: tokens - 1])
    return {"logits": m.array(tokens, vocabulary) * factor, "labels": labels}


def _equal_logits(m: Maker) -> Inputs:
    inputs = _loss(m)
    return inputs | {"logits": np.zeros_like(inputs["logits"])}


def _samples(m: Maker, *, n: int | None = None, tokens: int | None = None, d_in: int | None = None) -> Inputs:
    d_in, n = d_in or m.size(), n or m.size(1, 4)
    return {"inputs": [m.array(tokens or m.size(), d_in) for _ in range(n)]}


def _constant(m: Maker) -> Inputs:
    row, n = m.nonzero(1, m.size()), m.size(1, 3)
    return {"inputs": [np.repeat(row, m.size(2, 4), axis=0) for _ in range(n)]}


def _rank_one(m: Maker) -> Inputs:
    direction, n = m.pick(1.0, -1.0, 2.0) * np.ones((1, m.size(2))), m.size(1, 3)
    return {"inputs": [m.array(m.size(), 1) @ direction for _ in range(n)]}


def _unequal(m: Maker) -> Inputs:
    d_in = m.size()
    return {"inputs": [m.array(1, d_in), m.array(m.size(3, 6), d_in)]}


def _moved(make: Callable[[Maker], Inputs], sign: int) -> Callable[[Maker], Inputs]:
    def moved(m: Maker) -> Inputs:
        return {"inputs": [x * m.far(sign) for x in make(m)["inputs"]]}

    return moved


def _gradients(m: Maker, *, n: int | None = None, scale_W: float = 1.0, scale_G: float = 1.0) -> Inputs:
    d_out, d_in, n = m.size(), m.size(), n or m.size(1, 4)
    return {"W": m.array(d_out, d_in) * scale_W, "gradients": [m.array(d_out, d_in) * scale_G for _ in range(n)]}


def _cancelling(m: Maker) -> Inputs:
    d_out, d_in = m.size(), m.size()
    G = m.nonzero(d_out, d_in)
    return {"W": m.nonzero(d_out, d_in), "gradients": [G, -G]}


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("loss/typical", "mean cross entropy, labels shifted by one inside", lambda m: _loss(m)),
    ("loss/prompt-unscored", "labels of -100 at the front are not scored", lambda m: _loss(m, ignored=2)),
    ("loss/scattered-labels", "labels of -100 anywhere: the mean is over the scored ones", lambda m: _loss(m, scatter=True)),
    ("loss/one-scored-token", "two tokens: the first predicts the second", lambda m: _loss(m, tokens=2)),
    ("loss/equal-logits", "log V, whatever the labels", _equal_logits),
    ("loss/large-logits", "log-sum-exp does not overflow", lambda m: _loss(m, factor=512.0)),
    ("covariance/typical", "C = (1/N) sum X^T X over samples of different lengths", lambda m: _samples(m, n=m.size(2, 4))),
    ("covariance/one-token", "every sample is one token long", lambda m: _samples(m, tokens=1)),
    ("covariance/one-sample", "N = 1", lambda m: _samples(m, n=1)),
    ("covariance/one-input", "d_in = 1: C is a number in a matrix", lambda m: _samples(m, d_in=1)),
    ("covariance/unequal-lengths", "samples weigh by their sums, not by their means over tokens", _unequal),
    ("covariance/constant-inputs", "inputs without variance: centring would leave nothing", _constant),
    ("covariance/rank-one", "inputs along one direction", _rank_one),
    ("covariance/huge", "huge inputs", _moved(_samples, 1)),
    ("covariance/tiny", "tiny inputs", _moved(_samples, -1)),
    ("sensitivity/typical", "S = (1/N) sum mean|W * dLoss_n/dW|", lambda m: _gradients(m, n=m.size(2, 4))),
    ("sensitivity/one-sample", "N = 1", lambda m: _gradients(m, n=1)),
    ("sensitivity/cancelling-gradients", "gradients whose mean is zero: absolute values come first", _cancelling),
    ("sensitivity/zero-gradients", "gradients of zero give S = 0", lambda m: _gradients(m, scale_G=0.0)),
    ("sensitivity/zero-weight", "W of zero gives S = 0", lambda m: _gradients(m, scale_W=0.0)),
    ("sensitivity/huge", "huge weights", lambda m: _gradients(m, scale_W=m.far(1))),
    ("sensitivity/tiny", "tiny gradients", lambda m: _gradients(m, scale_G=m.far(-1))),
]  # fmt: skip
