"""Cases of A (Eq. 4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()


def _second_moment(m: Maker, d_in: int, tokens: int) -> Array:
    X = m.array(tokens, d_in)
    return m.precision.rounded(X.T @ X)


def _module(
    m: Maker, *, r: int | None = None, tokens: int | None = None, d_out: int | None = None, least: int = 1
) -> Inputs:
    rows, d_in = m.sides(least)
    d_out = d_out or rows
    W = m.array(d_out, d_in)
    return {"W": W, "C": _second_moment(m, d_in, tokens or 2 * d_in), "r": r or m.size(1, min(d_out, d_in))}


def _full_rank(m: Maker) -> Inputs:
    inputs = _module(m)
    return inputs | {"r": min(inputs["W"].shape)}


def _tall(m: Maker) -> Inputs:
    d_in = m.size(1, 4)
    return {"W": m.array(m.size(8, 12), d_in), "C": _second_moment(m, d_in, 2 * d_in), "r": m.size(1, d_in)}


def _wide(m: Maker) -> Inputs:
    d_out, d_in = m.size(1, 4), m.size(8, 12)
    return {"W": m.array(d_out, d_in), "C": _second_moment(m, d_in, 2 * d_in), "r": m.size(1, d_out)}


def _repeated(m: Maker) -> Inputs:
    """W C has the singular value 2 several times and 1/4 below it; the cut may fall inside the cluster."""
    d_in = m.size(2)
    cluster = m.size(2, d_in)
    sigma = np.array([2.0] * cluster + [0.25] * (d_in - cluster))
    P, Q = m.orthonormal(d_in, d_in), m.orthonormal(d_in, d_in)
    return {"W": m.precision.rounded(P @ np.diag(sigma) @ Q), "C": np.eye(d_in), "r": m.size(1, d_in)}


def _deficient(m: Maker) -> Inputs:
    """Fewer tokens than inputs: C does not reach every direction, and r may ask for more than it does."""
    d_out, d_in = m.sides(2)
    return {"W": m.array(d_out, d_in), "C": _second_moment(m, d_in, 1), "r": m.size(1, 2)}


def _identity(m: Maker) -> Inputs:
    inputs = _module(m)
    return inputs | {"C": np.eye(len(inputs["C"]))}


def _zero(m: Maker) -> Inputs:
    inputs = _module(m)
    return inputs | {"C": np.zeros_like(inputs["C"])}


def _moved(sign: int) -> Callable[[Maker], Inputs]:
    def moved(m: Maker) -> Inputs:
        inputs = _module(m)
        return inputs | {"W": inputs["W"] * m.far(sign, most=40)}  # the released code decomposes in float32

    return moved


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("initialize_a/typical", "the top r right singular vectors of W C", lambda m: _module(m, least=2)),
    ("initialize_a/rank-one", "r = 1", lambda m: _module(m, r=1)),
    ("initialize_a/full-rank", "r = min(d_out, d_in)", _full_rank),
    ("initialize_a/tall", "d_out above d_in", _tall),
    ("initialize_a/wide", "d_out below d_in: right vectors are the long ones", _wide),
    ("initialize_a/one-output", "d_out = 1", lambda m: _module(m, d_out=1, r=1)),
    ("initialize_a/identity-C", "C = I: the singular vectors of W", _identity),
    ("initialize_a/repeated-singular-values", "the cut may split a cluster: any basis of it is right", _repeated),
    ("initialize_a/rank-deficient-C", "one token: all but one singular value are zero", _deficient),
    ("initialize_a/zero-C", "no direction is better than another: any orthonormal rows", _zero),
    ("initialize_a/huge", "huge weights", _moved(1)),
    ("initialize_a/tiny", "tiny weights", _moved(-1)),
]  # fmt: skip
