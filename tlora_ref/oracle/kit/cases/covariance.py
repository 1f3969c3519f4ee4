# ruff: noqa: E501 (one case a line)
"""Cases of the second moments C."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()


def _samples(m: Maker, *, n: int | None = None, tokens: int | None = None, d_in: int | None = None) -> Inputs:
    """The first X_n in the form of the case, the others of any length."""
    first, columns = m.sides()
    d_in, n = d_in or columns, n or m.size(1, 4)
    return {"inputs": [m.array(tokens or (m.size() if i else first), d_in) for i in range(n)]}


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


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("covariance/typical", "C = (1/N) sum X^T X over samples of different lengths", lambda m: _samples(m, n=m.size(2, 4))),
    ("covariance/one-token", "every sample is one token long", lambda m: _samples(m, tokens=1)),
    ("covariance/one-sample", "N = 1", lambda m: _samples(m, n=1)),
    ("covariance/one-input", "d_in = 1: C is a number in a matrix", lambda m: _samples(m, d_in=1)),
    ("covariance/unequal-lengths", "samples weigh by their sums, not by their means over tokens", _unequal),
    ("covariance/constant-inputs", "inputs without variance: centring would leave nothing", _constant),
    ("covariance/rank-one", "inputs along one direction", _rank_one),
    ("covariance/huge", "huge inputs", _moved(_samples, 1)),
    ("covariance/tiny", "tiny inputs", _moved(_samples, -1)),
]  # fmt: skip
