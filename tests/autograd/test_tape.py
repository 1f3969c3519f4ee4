"""The tape and the checker: what must be caught, what must not be kept, what must not overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlora_ref import autograd as ag
from tlora_ref.autograd import Tensor, gradcheck, record
from tlora_ref.autograd.tape import Node
from tlora_ref.errors import GraphError, NumericsError, ShapeError


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def square(vjp: Any) -> Any:
    """x * x with a VJP of one's choice."""
    return lambda x: record(x.data * x.data, (x,), lambda dy: (vjp(x.data, dy),))


def product(vjp: Any) -> Any:
    return lambda x, y: record(x.data * y.data, (x, y), lambda dy: vjp(x, y, dy))


WRONG = {
    "sign": square(lambda x, dy: -2 * x * dy),
    "factor": square(lambda x, dy: x * dy),
    "slightly off": square(lambda x, dy: 2 * x * dy * (1 + 1e-4)),
    "ignores the cotangent": square(lambda x, dy: 2 * x),
    "not a number": square(lambda x, dy: 2 * x * dy * np.nan),
    "transposed": square(lambda x, dy: (2 * x * dy).T),
    "wrong shape": square(lambda x, dy: (2 * x * dy).sum(axis=0)),
    "zero": lambda x: record(softmax(x.data), (x,), lambda dy: (np.zeros_like(dy),)),
    "softmax without its mean": lambda x: record(softmax(x.data), (x,), lambda dy: (softmax(x.data) * dy,)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_vjp_is_caught(name: str) -> None:
    with pytest.raises((NumericsError, ShapeError)):
        gradcheck(WRONG[name], [normal(3, 3)])


def test_a_vjp_that_is_wrong_only_when_an_input_is_watched_alone_is_caught() -> None:
    def vjp(x: Tensor, y: Tensor, dy: np.ndarray) -> Any:
        return (dy * y.data * (1 if y.watched else 2) if x.watched else None, dy * x.data if y.watched else None)

    with pytest.raises(NumericsError, match="watched alone"):
        gradcheck(product(vjp), [normal(2, 2), normal(2, 2) + 1])


def test_right_ones_pass() -> None:
    gradcheck(square(lambda x, dy: 2 * x * dy), [normal(3, 3)])
    p = softmax(normal(3, 3))
    gradcheck(
        lambda x: record(softmax(x.data), (x,), lambda dy: (p * (dy - (p * dy).sum(-1, keepdims=True)),)),
        [normal(3, 3)],
    )
    with pytest.raises(ShapeError, match="float64"):
        gradcheck(lambda x: x, [normal(2).astype(np.float32)])


def test_a_chain_of_fifty_thousand_operations_does_not_overflow() -> None:
    y = ag.leaf(np.ones(()), "x")
    for _ in range(50_000):
        y = ag.scale(y, 1.0)
    assert ag.grad(y, ["x"])["x"] == 1.0


def test_branches_and_tied_leaves_add_up() -> None:
    x = ag.leaf(np.array(3.0), "x")
    diamond = ag.multiply(ag.add(x, x), ag.scale(x, 5.0))  # 10 x^2
    assert ag.grad(diamond, ["x"])["x"] == pytest.approx(60.0)
    tied = ag.multiply(ag.leaf(np.array(3.0), "w"), ag.leaf(np.array(3.0), "w"))
    assert ag.grad(tied, ["w"])["w"] == pytest.approx(6.0)


def test_what_is_not_connected_is_an_error_and_not_a_zero() -> None:
    x = ag.leaf(np.array(3.0), "x")
    with pytest.raises(GraphError, match="does not depend on y"):
        ag.grad(ag.scale(x, 2.0), ["x", "y"])
    with pytest.raises(GraphError, match="no watched tensor"):
        ag.grad(Tensor(np.array(1.0)), ["x"])
    with pytest.raises(ShapeError, match="scalar"):
        ag.grad(ag.leaf(np.ones(2), "x"), ["x"])
    bad = record(np.array(1.0), (x,), lambda dy: ())
    with pytest.raises(ShapeError, match="0 cotangents for 1 parents"):
        ag.grad(bad, ["x"])
    with pytest.raises(GraphError, match="no cotangent for a watched parent"):
        ag.grad(record(np.array(1.0), (x,), lambda dy: (None,)), ["x"])


def test_a_weight_is_delivered_once_and_before_the_layers_below_it() -> None:
    x, order = ag.leaf(normal(2, 3), "x"), []
    for i in range(4):
        x = ag.linear(x, ag.leaf(normal(3, 3), f"W{i}"))
    loss = ag.cross_entropy(x, np.array([0, 1]), 1.0)
    ag.backward(loss, lambda name, gradient: order.append(name))
    assert order == ["W3", "W2", "W1", "W0", "x"]


def kept(tensor: Tensor) -> list[np.ndarray]:
    """The arrays that the VJP of this one operation holds on to."""
    assert isinstance(tensor.node, Node)
    cells = tensor.node.vjp.__closure__ or ()  # type: ignore[union-attr]
    values = [cell.cell_contents for cell in cells]
    assert not any(isinstance(value, Tensor) for value in values)
    return [value for value in values if isinstance(value, np.ndarray)]


def test_nothing_is_saved_for_what_is_frozen() -> None:
    x, W, A, B = normal(5, 4), normal(3, 4), normal(2, 4), normal(3, 2)
    frozen = ag.linear(ag.leaf(x, "x"), Tensor(W))
    assert {id(a) for a in kept(frozen)} == {id(W)}
    low_rank = ag.low_rank_linear(ag.leaf(x, "x"), Tensor(W), None, Tensor(A), ag.leaf(B, "B"), 0.5)
    held = kept(low_rank)
    assert not any(np.shares_memory(a, x) for a in held)
    extra = [a for a in held if not any(a is frozen_array for frozen_array in (W, A, B))]
    assert [a.shape for a in extra] == [(5, 2)]
    np.testing.assert_array_equal(extra[0], x @ A.T)
    watched = ag.linear(Tensor(x), ag.leaf(W, "W"))
    assert any(np.shares_memory(a, x) for a in kept(watched))
    assert ag.linear(Tensor(x), Tensor(W)).node is None


def test_float32_stays_float32() -> None:
    seen: list[np.dtype[Any]] = []
    f32 = {n: normal(*s).astype(np.float32) for n, s in {"x": (1, 4, 8), "w": (8,), "W": (8, 8), "A": (2, 8)}.items()}
    x = ag.rms_norm(ag.leaf(f32["x"], "x"), ag.leaf(f32["w"], "w"), 1e-5)
    B = ag.leaf(np.ones((8, 2), np.float32), "B")
    y = ag.low_rank_linear(x, ag.leaf(f32["W"], "W"), None, ag.leaf(f32["A"], "A"), B, 0.5)
    heads = ag.rotary(ag.reshape(y, (1, 4, 2, 4)), *(f(np.ones((1, 4, 1, 2), np.float32)) for f in (np.cos, np.sin)))
    y = ag.attention(heads, heads, heads, scale=0.5, see=ag.Visibility(causal=True))
    y = ag.gated(ag.reshape(y, (4, 8)), ag.activation(ag.reshape(y, (4, 8)), "gelu"), "silu")
    loss = ag.linear_cross_entropy(y, ag.leaf(f32["W"], "W"), np.arange(4), 4.0)
    assert loss.dtype == np.float32
    ag.backward(loss, lambda name, gradient: seen.append(gradient.dtype))
    assert set(seen) == {np.dtype(np.float32)} and len(seen) == 5
