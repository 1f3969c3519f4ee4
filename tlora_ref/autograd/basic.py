"""Primitives: arithmetic, shapes, linear maps, embedding. Each has its VJP inside it, under its forward.

Legend: `dy` is the cotangent of the output y, `dx` of the input x, and so on. A VJP closes over arrays, never over
tensors, and over an array only if a watched input needs it: what is not mentioned inside `vjp` is not kept.
Scalars are Python floats, so that a float32 array stays float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlora_ref.autograd.products import IN_ONE, times, times_transposed
from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module, scatter_add, widened
from tlora_ref.errors import ShapeError


def unbroadcast(dy: Array, shape: tuple[int, ...]) -> Array:
    """Sum `dy` over the axes along which an operand of `shape` was broadcast."""
    if dy.shape == shape:
        return dy
    extra = dy.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and dy.shape[extra + i] != 1)
    return dy.sum(axis=axes, keepdims=True).reshape(shape)


def row_dot(a: Array, b: Array) -> Array:
    """sum_i a_i b_i over the last axis, which is kept: (..., d), (..., d) -> (..., 1). The product is not formed."""
    xp = array_module(a, b)
    if xp is np and a.shape[-1] <= IN_ONE:  # BLAS's scalar products: twice as fast, and closer in float32
        return np.vecdot(a, b)[..., None]
    return xp.einsum("...i,...i->...", a, b)[..., None]


# ---------------------------------------------------------------------------------------------- arithmetic
def add(a: Tensor, b: Tensor) -> Tensor:
    """y = a + b, with broadcasting."""
    shape_a, shape_b = a.shape, b.shape
    need_a, need_b = a.watched, b.watched

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        return unbroadcast(dy, shape_a) if need_a else None, unbroadcast(dy, shape_b) if need_b else None

    return record(a.data + b.data, (a, b), vjp)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """y = a * b elementwise, with broadcasting."""
    shape_a, shape_b = a.shape, b.shape
    saved_a = a.data if b.watched else None
    saved_b = b.data if a.watched else None

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        da = None if saved_b is None else unbroadcast(dy * saved_b, shape_a)
        db = None if saved_a is None else unbroadcast(dy * saved_a, shape_b)
        return da, db

    return record(a.data * b.data, (a, b), vjp)


def scale(x: Tensor, factor: float) -> Tensor:
    """y = factor * x for a constant Python float."""

    def vjp(dy: Array) -> tuple[Array]:
        return (dy * factor,)

    return record(x.data * factor, (x,), vjp)


# ---------------------------------------------------------------------------------------------- shapes
def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """y = x with another shape."""
    old = x.shape

    def vjp(dy: Array) -> tuple[Array]:
        return (dy.reshape(old),)

    return record(x.data.reshape(shape), (x,), vjp)


def transpose(x: Tensor) -> Tensor:
    """y = x^T of a matrix (a view)."""

    def vjp(dy: Array) -> tuple[Array]:
        return (dy.T,)

    return record(x.data.T, (x,), vjp)


def split(x: Tensor, sizes: Sequence[int], axis: int = -1) -> list[Tensor]:
    """x cut along `axis` into consecutive pieces of the given sizes (views)."""
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"split: sizes {list(sizes)} do not add up to {x.shape[axis]}, the length of axis {axis}")
    shape, dtype, axis = x.shape, x.dtype, axis % len(x.shape)
    pieces = []
    start = 0
    for size in sizes:
        index = (slice(None),) * axis + (slice(start, start + size),)

        def vjp(dy: Array, index: tuple[slice, ...] = index) -> tuple[Array]:
            dx = array_module(dy).zeros(shape, dtype=dtype)
            dx[index] = dy
            return (dx,)

        pieces.append(record(x.data[index], (x,), vjp))
        start += size
    return pieces


def take_rows(x: Tensor, rows: Array) -> Tensor:
    """y[i] = x[rows[i]] for x (n, d) and integer rows (k,): y (k, d). Rows may repeat."""
    shape = x.shape

    def vjp(dy: Array) -> tuple[Array]:
        dx = array_module(dy).zeros(shape, dtype=dy.dtype)
        scatter_add(dx, rows, dy)
        return (dx,)

    return record(widened(x.data[rows]), (x,), vjp)


def weighted_sum(x: Tensor, weights: Array) -> Tensor:
    """y[b] = sum_t weights[b, t] x[b, t] for x (B, T, d) and constant weights (B, T): y (B, d)."""
    xp = array_module(x.data)

    def vjp(dy: Array) -> tuple[Array]:
        return (weights[..., None] * dy[:, None],)

    return record(xp.einsum("bt,btd->bd", weights, x.data), (x,), vjp)


def embedding(table: Tensor, ids: Array) -> Tensor:
    """y[..., :] = table[ids[...], :] for a table (vocab, d) and integer ids of any shape."""
    flat = take_rows(table, ids.reshape(-1))  # (ids.size, d)
    return reshape(flat, (*ids.shape, table.shape[1]))


def bucket_bias(table: Tensor, buckets: Array) -> Tensor:
    """y[h, t, s] = table[buckets[t, s], h]: a bias of attention scores by bucket (Raffel et al., arXiv 1910.10683).

    table (n_buckets, heads), integer buckets (T, S): y (heads, T, S). The VJP adds up in float64.
    """
    xp, (n_buckets, heads), dtype = array_module(table.data), table.shape, table.dtype

    def vjp(dy: Array) -> tuple[Array]:
        flat = buckets.reshape(-1)
        sums = [xp.bincount(flat, weights=row, minlength=n_buckets) for row in dy.reshape(heads, -1)]
        return (xp.stack(sums, axis=1).astype(dtype),)

    return record(xp.take(table.data.T, buckets, axis=1), (table,), vjp)


# ---------------------------------------------------------------------------------------------- linear maps
def _rows(x: Array) -> Array:
    """(..., d) -> (tokens, d)."""
    return x.reshape(-1, x.shape[-1])


def linear(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """y = x W^T + b.

    x (..., d_in), W (d_out, d_in), b (d_out,): y (..., d_out). With W frozen nothing is saved but W itself.
    """
    lead, weight = x.shape[:-1], W.data
    saved_x = _rows(x.data) if W.watched else None
    need_x, need_b = x.watched, b is not None and b.watched
    y = times_transposed(_rows(x.data), weight)  # (tokens, d_out)
    if b is not None:
        y += b.data

    def vjp(dy: Array) -> tuple[Array | None, ...]:
        dy = _rows(dy)
        dx = times(dy, weight).reshape(*lead, weight.shape[1]) if need_x else None
        dW = None if saved_x is None else dy.T @ saved_x
        db = dy.sum(axis=0) if need_b else None
        return (dx, dW) if b is None else (dx, dW, db)

    return record(y.reshape(*lead, weight.shape[0]), (x, W) if b is None else (x, W, b), vjp)


def low_rank_linear(x: Tensor, W: Tensor, b: Tensor | None, A: Tensor, B: Tensor, s: float) -> Tensor:
    """Eq. 1: y = x W^T + s (x A^T) B^T + b.

    x (..., d_in), W (d_out, d_in), A (r, d_in), B (d_out, r), s = alpha_i / r_i. With W and A frozen it saves
    h = x A^T, r numbers a token, and not x. Eq. 2: dB = s dy^T h (the paper prints it without s).
    """
    lead, weight, a, b_low = x.shape[:-1], W.data, A.data, B.data
    rows = _rows(x.data)
    h = rows @ a.T  # (tokens, r)
    saved_x = rows if W.watched or A.watched else None
    saved_h = h if B.watched else None
    need_x, need_W, need_A, need_b = x.watched, W.watched, A.watched, b is not None and b.watched
    y = times_transposed(rows, weight)  # (tokens, d_out)
    y += (h * s) @ b_low.T
    if b is not None:
        y += b.data

    def vjp(dy: Array) -> tuple[Array | None, ...]:
        dy = _rows(dy)
        dh = (dy @ b_low) * s if need_x or need_A else None  # (tokens, r)
        dx = None
        if need_x and dh is not None:
            dx = times(dy, weight)
            dx += dh @ a
            dx = dx.reshape(*lead, weight.shape[1])
        dW = dy.T @ saved_x if need_W and saved_x is not None else None
        dA = dh.T @ saved_x if need_A and dh is not None and saved_x is not None else None
        dB = None if saved_h is None else (dy.T @ saved_h) * s
        db = dy.sum(axis=0) if need_b else None
        return (dx, dW, dA, dB) if b is None else (dx, dW, dA, dB, db)

    parents = (x, W, A, B) if b is None else (x, W, A, B, b)
    return record(y.reshape(*lead, weight.shape[0]), parents, vjp)
