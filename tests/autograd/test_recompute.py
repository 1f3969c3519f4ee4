"""A part that is computed again on the way back: the same bits, and nothing of its inside kept."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from tlora_ref import autograd as ag
from tlora_ref.autograd import Tensor, gradcheck, recomputed
from tlora_ref.backend import BFLOAT16


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def wide(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    return ag.gated(ag.linear(x, gate), ag.linear(x, up), "silu")


def loss_of(y: Tensor) -> Tensor:
    """A scalar with another cotangent for every entry."""
    flat = ag.reshape(y, (1, -1))
    return ag.reshape(ag.linear(flat, Tensor(normal(1, flat.shape[1], seed=9).astype(y.dtype))), ())


def test_against_central_differences() -> None:
    inputs = [normal(2, 3, 4), normal(5, 4), normal(5, 4, seed=1)]
    gradcheck(lambda x, gate, up: recomputed(lambda x: wide(x, gate, up), x), inputs)


@pytest.mark.parametrize("watched", ["x gate up", "x", "gate up", "up", "x gate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_whatever_is_watched(watched: str, dtype: type) -> None:
    arrays = {"x": normal(3, 4), "gate": normal(5, 4), "up": normal(5, 4, seed=1)}
    names = watched.split()
    found = []
    for run in (lambda part, *inputs: part(*inputs), recomputed):
        inputs = {name: array.astype(dtype) for name, array in arrays.items()}
        x, gate, up = (ag.leaf(a, name) if name in names else Tensor(a) for name, a in inputs.items())

        def part(a: Tensor, b: Tensor, gate: Tensor = gate, up: Tensor = up) -> Tensor:
            return ag.gated(ag.linear(a, gate), ag.linear(b, up), "silu")

        y = ag.add(ag.linear(x, gate), run(part, x, x))  # x is used outside as well, and gate
        gradients = ag.grad(loss_of(y), names)
        found.append([y.data, *gradients.values()])
    assert all(a.dtype == dtype and np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_a_constant_stays_one_and_x_itself_may_come_out() -> None:
    x = Tensor(normal(2, 3))
    assert recomputed(lambda x: ag.scale(x, 2.0), x).node is None
    watched = ag.leaf(normal(2, 3), "x")
    np.testing.assert_array_equal(
        ag.grad(loss_of(recomputed(lambda x: x, watched)), ["x"])["x"], normal(1, 6, seed=9).reshape(2, 3)
    )


def test_one_inside_another_and_a_watched_tensor_from_outside() -> None:
    found = []
    for run in (lambda part, x: part(x), recomputed):
        x, W, V = ag.leaf(normal(3, 4), "x"), ag.leaf(normal(4, 4), "W"), ag.leaf(normal(4, 4, seed=1), "V")
        beside = ag.activation(ag.linear(x, V), "tanh")  # no leaf: it is swept through to x and V

        def inner(x: Tensor, W: Tensor = W) -> Tensor:
            return ag.activation(ag.linear(x, W), "silu")

        def outer(x: Tensor, run=run, inner=inner, beside=beside) -> Tensor:  # type: ignore[no-untyped-def]
            return ag.multiply(run(inner, ag.scale(x, 0.5)), beside)

        found.append(ag.grad(loss_of(run(outer, ag.scale(x, 3.0))), ["x", "W", "V"]))
    for name, expected in found[0].items():
        np.testing.assert_allclose(found[1][name], expected, rtol=1e-13)


def test_nothing_of_the_inside_is_kept() -> None:
    inside: list[weakref.ref[np.ndarray]] = []
    W = ag.leaf(normal(5, 4), "W")

    def part(x: Tensor) -> Tensor:
        h = ag.linear(x, W)
        inside.append(weakref.ref(h.data))
        return ag.activation(h, "silu")  # its VJP keeps h

    plain, y = (run(part, ag.leaf(normal(3, 4), "x")) for run in (lambda part, x: part(x), recomputed))
    assert [one() is None for one in inside] == [False, True] and plain.watched
    ag.grad(loss_of(y), ["x", "W"])
    assert [one() is None for one in inside] == [False, True, True]


def test_what_is_rounded_is_rounded_the_second_time_too() -> None:
    """`stored_as` holds while a pass goes forth; the sweep may come after it."""
    found = []
    for run in (lambda part, x: part(x), recomputed):
        arrays = (normal(4, 4, seed=i).astype(np.float32) for i in range(3))
        x, gate, up = (ag.leaf(array, name) for array, name in zip(arrays, "xgu", strict=True))
        with ag.stored_as(lambda x: x.astype(BFLOAT16).astype(np.float32)):
            loss = loss_of(run(lambda x, g=gate, u=up: wide(x, g, u), x))
            inside = ag.grad(loss, ["x", "g", "u"])
        found.append((inside, ag.grad(loss, ["x", "g", "u"])))
    for plain, again in zip(*found, strict=True):
        assert all(np.array_equal(plain[name], again[name]) for name in plain)
    assert not np.array_equal(found[0][0]["g"], found[0][1]["g"])
