"""Every primitive: its VJP against central differences, its value against formulas written another way."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.special
from threadpoolctl import threadpool_limits

from tlora_ref import autograd as ag
from tlora_ref.autograd import gradcheck, visibility
from tlora_ref.autograd import loss as loss_module
from tlora_ref.autograd.basic import row_dot
from tlora_ref.backend import Device
from tlora_ref.errors import ConfigError, ShapeError

KEYS = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]], dtype=bool)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 4), (3, 1)), ((1,), (2, 3)), ((), (2,))])
def test_add_and_multiply_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    gradcheck(ag.add, inputs)
    gradcheck(ag.multiply, inputs)


def test_shapes() -> None:
    gradcheck(lambda x: ag.reshape(x, (4, 3)), [normal(2, 6)])
    gradcheck(lambda x: ag.scale(x, -1.7), [normal(2, 3)])
    gradcheck(lambda x: ag.multiply(*ag.split(x, [2, 2], axis=1)), [normal(3, 4)])
    gradcheck(lambda x: ag.split(x, [1, 3])[1], [normal(2, 4)])
    gradcheck(lambda x: ag.multiply(ag.transpose(x), ag.Tensor(normal(4, 2))), [normal(2, 4)])
    gradcheck(lambda x: ag.take_rows(x, np.array([2, 0, 2])), [normal(3, 2)])
    gradcheck(lambda x: ag.embedding(x, np.array([[1, 2], [2, 0]])), [normal(3, 4)])
    with pytest.raises(ShapeError, match="do not add up"):
        ag.split(ag.Tensor(normal(2, 4)), [1, 2])


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)])
def test_linear_and_low_rank_linear(lead: tuple[int, ...]) -> None:
    x, W, b, A, B = normal(*lead, 5), normal(4, 5), normal(4), normal(2, 5), normal(4, 2)
    gradcheck(ag.linear, [x, W])
    gradcheck(ag.linear, [x, W, b])
    gradcheck(lambda x, W, A, B: ag.low_rank_linear(x, W, None, A, B, 1.7), [x, W, A, B])
    gradcheck(lambda x, W, b, A, B: ag.low_rank_linear(x, W, b, A, B, -0.3), [x, W, b, A, B])
    got = ag.low_rank_linear(*(ag.Tensor(v) for v in (x, W, b, A, B)), 1.7).data
    by_entries = np.einsum("...i,oi->...o", x, W + 1.7 * np.einsum("or,ri->oi", B, A)) + b
    np.testing.assert_allclose(got, by_entries, rtol=1e-12, atol=1e-12)


def test_norms() -> None:
    x, w, b = normal(2, 3, 5), normal(5), normal(5, seed=1)
    gradcheck(lambda x, w: ag.rms_norm(x, w, 1e-5), [x, w])
    gradcheck(lambda x, w, b: ag.layer_norm(x, w, b, 1e-5), [x, w, b])
    gradcheck(lambda x, w: ag.layer_norm(x, w, None, 1e-5), [x, w])
    gradcheck(lambda x, w: ag.rms_norm(x, w, 1e-2), [normal(3, 1), normal(1)])
    gradcheck(lambda x, w: ag.rms_norm(x, w, 1e-5, offset=1.0), [x, w])
    row = x[1, 2]
    rms = math.sqrt(math.fsum(v * v for v in row) / 5 + 1e-5)
    np.testing.assert_allclose(ag.rms_norm(ag.Tensor(x), ag.Tensor(w), 1e-5).data[1, 2], row / rms * w, rtol=1e-13)
    shifted = ag.rms_norm(ag.Tensor(x), ag.Tensor(w), 1e-5, offset=1.0).data[1, 2]
    np.testing.assert_allclose(shifted, row / rms * (1 + w), rtol=1e-13)
    expected = (row - row.mean()) / math.sqrt(row.var() + 1e-5) * w + b
    got = ag.layer_norm(ag.Tensor(x), ag.Tensor(w), ag.Tensor(b), 1e-5).data[1, 2]
    np.testing.assert_allclose(got, expected, rtol=1e-13)


ACTIVATIONS = {
    "silu": lambda x: x * scipy.special.expit(x),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "gelu_new": lambda x: x * scipy.special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str) -> None:
    x, up = normal(3, 4) + 0.05, normal(3, 4, seed=1)
    gradcheck(lambda x: ag.activation(x, kind), [x])
    gradcheck(lambda x, u: ag.gated(x, u, kind), [x, up])
    wide = np.array([-80.0, -5.0, -0.5, 0.0, 0.5, 5.0, 80.0])
    np.testing.assert_allclose(
        ag.activation(ag.Tensor(wide), kind).data, ACTIVATIONS[kind](wide), rtol=1e-12, atol=1e-15
    )
    with pytest.raises(ConfigError, match="not implemented"):
        ag.check_activation("gelu_10")


def test_soft_cap() -> None:
    x = normal(3, 4)
    gradcheck(lambda x: ag.soft_cap(x, 0.7), [x])
    np.testing.assert_allclose(ag.soft_cap(ag.Tensor(x), 0.7).data, 0.7 * np.tanh(x / 0.7), rtol=1e-14)
    far = ag.soft_cap(ag.Tensor(np.array([-1e30, 1e-9, 1e30])), 30.0).data
    np.testing.assert_allclose(far, [-30.0, 1e-9, 30.0], rtol=1e-15)


def test_rotary_turns_pairs_by_their_angle() -> None:
    angle = normal(1, 5, 1, 2)
    x = normal(2, 5, 3, 5)
    gradcheck(lambda x: ag.rotary(x, np.cos(angle), np.sin(angle)), [x])
    y = ag.rotary(ag.Tensor(x), np.cos(angle), np.sin(angle)).data
    turned = (x[..., 0:2] + 1j * x[..., 2:4]) * np.exp(1j * angle)
    np.testing.assert_allclose(y[..., 0:2] + 1j * y[..., 2:4], turned, rtol=1e-12)
    assert np.array_equal(y[..., 4], x[..., 4])  # beyond the rotary channels


def dense_attention(q, k, v, scale, causal, window, keys, bias, cap=None):  # type: ignore[no-untyped-def]
    """Softmax attention by loops over batch, head and query."""
    (batch, queries, heads, _), (S, groups) = q.shape, k.shape[1:3]
    y = np.zeros((batch, queries, heads, v.shape[3]))
    for b, t, h in np.ndindex(batch, queries, heads):
        g, position = h // (heads // groups), S - queries + t
        seen = [
            s
            for s in range(S)
            if (not causal or s <= position)
            and (window is None or (position - s if causal else abs(position - s)) < window)
            and (keys is None or keys[b, s])
        ]
        if seen:
            scores = np.array([q[b, t, h] @ k[b, s, g] * scale + (0 if bias is None else bias[h, t, s]) for s in seen])
            scores = scores if cap is None else cap * np.tanh(scores / cap)
            y[b, t, h] = scipy.special.softmax(scores) @ v[b, seen, g]
    return y


@pytest.mark.parametrize("block", [2, 128])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 2), (False, 2)])
@pytest.mark.parametrize("queries", [5, 2, 1])
def test_attention(monkeypatch, block, with_bias, keys, causal, window, queries) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(visibility, "BLOCK", block)
    see = ag.Visibility(causal, window, keys)
    inputs = [normal(3, queries, 4, 3), normal(3, 5, 2, 3), normal(3, 5, 2, 2)]
    inputs += [normal(4, queries, 5)] if with_bias else []

    def f(q, k, v, *bias):  # type: ignore[no-untyped-def]
        return ag.attention(q, k, v, scale=0.5, see=see, bias=bias[0] if bias else None)

    expected = dense_attention(*inputs[:3], 0.5, causal, window, keys, inputs[3] if with_bias else None)
    np.testing.assert_allclose(f(*(ag.Tensor(x) for x in inputs)).data, expected, rtol=1e-12, atol=1e-13)
    if queries != 2:
        gradcheck(f, inputs)


@pytest.mark.parametrize("block", [2, 128])
@pytest.mark.parametrize("with_bias", [False, True])
def test_capped_attention(monkeypatch, block: int, with_bias: bool) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(visibility, "BLOCK", block)
    see = ag.Visibility(causal=True, window=3, keys=KEYS)
    inputs = [normal(3, 5, 4, 3), normal(3, 5, 2, 3), normal(3, 5, 2, 2), *([normal(4, 5, 5)] if with_bias else [])]

    def f(q, k, v, *bias):  # type: ignore[no-untyped-def]
        return ag.attention(q, k, v, scale=2.0, see=see, bias=bias[0] if bias else None, cap=1.5)

    expected = dense_attention(*inputs[:3], 2.0, True, 3, KEYS, inputs[3] if with_bias else None, cap=1.5)
    np.testing.assert_allclose(f(*(ag.Tensor(x) for x in inputs)).data, expected, rtol=1e-12, atol=1e-13)
    gradcheck(f, inputs)


@pytest.mark.parametrize("bias_shape", [None, (6, 7, 7), (2, 6, 7, 7)])
def test_attention_by_heads_side_by_side_has_the_bits_of_all_at_once(monkeypatch, bias_shape) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(visibility, "BLOCK", 3)
    see = ag.Visibility(causal=True, keys=np.arange(7) >= np.array([[0], [2]]))
    inputs = [normal(2, 7, 6, 4), normal(2, 7, 2, 4), normal(2, 7, 2, 5)] + (
        [normal(*bias_shape)] if bias_shape else []
    )
    dy = normal(2, 7, 6, 5)
    # The package re-exports the function under the module's own name: the module itself is found in sys.modules.
    module = sys.modules["tlora_ref.autograd.attention"]
    together: list[int] = []
    side_by_side = Device.side_by_side
    monkeypatch.setattr(
        Device, "side_by_side", lambda self, tasks: (together.append(len(tasks)), side_by_side(self, tasks))[1]
    )

    def slopes(threads: int, cached: int, shared: int = 1) -> list[np.ndarray]:
        monkeypatch.setattr(module, "CACHED", cached)
        monkeypatch.setattr(module, "SHARED_SCORES", shared)
        q, k, v, *bias = (ag.leaf(x, str(i)) for i, x in enumerate(inputs))
        with threadpool_limits(threads, user_api="blas"):
            y = ag.attention(q, k, v, scale=0.5, see=see, bias=bias[0] if bias else None)
            assert y.node is not None and y.node.vjp is not None
            return [y.data, *y.node.vjp(dy)]

    whole = slopes(1, 1)
    assert all(np.array_equal(x, y) for x, y in zip(whole, slopes(2, 1, shared=2**23), strict=True))
    assert not together  # one thread, and a short sequence
    for cached in (1, 2 * 3 * 7, 3 * 3 * 7, 6 * 3 * 7):  # parts of a head, of two, of a group, of a sample
        for x, y in zip(whole, slopes(2, cached), strict=True):
            assert np.array_equal(x, y)
    assert len(together) == 8  # forth and back, four times


@pytest.mark.parametrize("of_keys", [False, True])
def test_position_scores(of_keys: bool) -> None:
    x, table, buckets = normal(2, 4, 3, 5), normal(6, 3, 5), np.random.default_rng(0).integers(0, 6, (4, 4))
    gradcheck(lambda x, table: ag.position_scores(x, table, buckets, of_keys=of_keys), [x, table])
    got = ag.position_scores(ag.Tensor(x), ag.Tensor(table), buckets, of_keys=of_keys).data
    for b, h, t, s in np.ndindex(2, 3, 4, 4):
        assert got[b, h, t, s] == pytest.approx(x[b, s if of_keys else t, h] @ table[buckets[t, s], h], rel=1e-12)


@pytest.mark.parametrize("block", [2, 128])
def test_attention_with_a_bias_a_sample(monkeypatch, block: int) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(visibility, "BLOCK", block)
    see = ag.Visibility(keys=KEYS)
    q, k, v, bias = normal(3, 4, 4, 3), normal(3, 5, 2, 3), normal(3, 5, 2, 2), normal(3, 4, 4, 5)

    def f(q, k, v, bias):  # type: ignore[no-untyped-def]
        return ag.attention(q, k, v, scale=0.7, see=see, bias=bias)

    got = f(*(ag.Tensor(x) for x in (q, k, v, bias))).data
    for b in range(3):
        alone = dense_attention(q[b : b + 1], k[b : b + 1], v[b : b + 1], 0.7, False, None, KEYS[b : b + 1], bias[b])
        np.testing.assert_allclose(got[b], alone[0], rtol=1e-12, atol=1e-13)
    gradcheck(f, [q, k, v, bias])


def test_weighted_sum() -> None:
    x, weights = normal(2, 3, 4), normal(2, 3)
    gradcheck(lambda x: ag.weighted_sum(x, weights), [x])
    expected = [sum(weights[b, t] * x[b, t] for t in range(3)) for b in range(2)]
    np.testing.assert_allclose(ag.weighted_sum(ag.Tensor(x), weights).data, expected, rtol=1e-13)


@pytest.mark.parametrize("chunk", [2, 256])
def test_cross_entropy(monkeypatch, chunk: int) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(loss_module, "MOST", chunk)
    h, W, targets = normal(5, 3), normal(6, 3), np.array([1, 0, 3, 3, 5])
    gradcheck(lambda h, W: ag.linear_cross_entropy(h, W, targets, 3.0), [h, W])
    gradcheck(lambda h, W: ag.linear_cross_entropy(h, W, targets, 3.0, cap=1.5), [h, W])
    gradcheck(lambda x: ag.cross_entropy(x, targets, 3.0), [normal(5, 6)])
    capped = ag.linear_cross_entropy(ag.Tensor(h), ag.Tensor(W), targets, 3.0, cap=1.5).item()
    by_parts = ag.cross_entropy(ag.soft_cap(ag.Tensor(h @ W.T), 1.5), targets, 3.0).item()
    assert capped == pytest.approx(by_parts, rel=1e-14)
    log_p = scipy.special.log_softmax(h @ W.T, axis=1)
    expected = -log_p[np.arange(5), targets].sum() / 3
    assert ag.linear_cross_entropy(ag.Tensor(h), ag.Tensor(W), targets, 3.0).item() == pytest.approx(
        expected, rel=1e-13
    )
    huge = ag.cross_entropy(ag.Tensor(np.array([[1e4, 0.0], [0.0, -1e4]])), np.array([0, 1]), 1.0)
    assert huge.item() == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("rows", "vocab"), [(1, 10), (63, 49152), (511, 49152), (2047, 49152), (300, 512), (70, 10**6)]
)
def test_rows_of_logits_go_in_chunks_of_like_length(rows: int, vocab: int) -> None:
    chunks = loss_module.row_chunks(rows, vocab)
    most = min(256, max(64, 12 * 2**19 // vocab))
    assert [i for chunk in chunks for i in range(chunk.start, chunk.stop)] == list(range(rows))
    lengths = [chunk.stop - chunk.start for chunk in chunks]
    assert max(lengths) <= most and max(lengths) - min(lengths) <= 1 and (len(chunks) - 1) * most < rows


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("tokens", "taps"), [(6, 3), (2, 3), (1, 4), (5, 1)])
def test_causal_convolution(tokens: int, taps: int, with_state: bool) -> None:
    x, weight, state = normal(2, tokens, 3), normal(3, taps), normal(2, taps - 1, 3)
    before = state if with_state else None
    gradcheck(lambda x, w: ag.causal_convolution(x, w, before), [x, weight])
    y = ag.causal_convolution(ag.Tensor(x), ag.Tensor(weight), before).data
    for b, c in np.ndindex(2, 3):
        earlier = state[b, :, c] if with_state else np.zeros(taps - 1)
        line = np.concatenate([earlier, x[b, :, c]])
        expected = np.convolve(line, weight[c, ::-1], mode="valid")  # a convolution turns its kernel round
        np.testing.assert_allclose(y[b, :, c], expected, rtol=1e-12, atol=1e-13)


def test_bucket_bias() -> None:
    table, buckets = normal(4, 3), np.array([[0, 2, 2], [3, 0, 2]])  # bucket 1 is never used
    y = ag.bucket_bias(ag.Tensor(table), buckets).data
    assert y.shape == (3, 2, 3)
    assert y[1, 0, 2] == table[2, 1]
    assert y[2, 1, 0] == table[3, 2]
    gradcheck(lambda x: ag.bucket_bias(x, buckets), [table])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [0, 1, 7, 10_000, 10_001])
def test_scalar_products_of_rows_do_not_depend_on_threads(length: int, dtype: str) -> None:
    a, b = (normal(3, 2, length, seed=seed).astype(dtype) for seed in range(2))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(row_dot(a, b))
    assert found[0].shape == (3, 2, 1) and np.array_equal(found[0], found[1])
    products = a.astype("longdouble") * b.astype("longdouble")
    bound = length * np.finfo(dtype).eps * np.abs(products).sum(axis=-1, keepdims=True)  # of a sum in any order
    assert (np.abs(found[0] - products.sum(axis=-1, keepdims=True)) <= bound).all()
