"""Products with a weight matrix, whatever it is held in.

A matrix held in bfloat16 is widened to float32 where it is used, block by block, so that no more than a block of it is
there in four bytes. A matrix in float32 goes through the same blocks: which products are computed depends on shapes
alone, so both give the same bits. Small matrices are one block, and so are most large ones, unless few rows meet them:
then reading W is the work, and a block stays in the cache between its widening and its use.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import local

import numpy as np

from tlora_ref.backend import BFLOAT16, Array, array_module

#: Up to so many rows of x count as few.
FEW = 16
#: Numbers up to which W is one block, and numbers of a block beyond that: for few rows of x, and for more.
WHOLE_FOR_FEW = BLOCK_FOR_FEW = 2**19
WHOLE, BLOCK = 2**24, 2**21

#: A thread's place for widened blocks, as large as the largest so far.
_place = local()


def _is_whole(rows: int, W: Array) -> bool:
    """Whether W is one block, for a product with `rows` rows: where it is small, and on a device."""
    return W.size <= (WHOLE_FOR_FEW if rows <= FEW else WHOLE) or array_module(W) is not np


def _blocks(rows: int, W: Array) -> Iterator[slice]:
    """The rows of a W (d_out, d_in) that is not whole in blocks, for a product with `rows` rows."""
    step = max(1, (BLOCK_FOR_FEW if rows <= FEW else BLOCK) // W.shape[1])
    for start in range(0, len(W), step):
        yield slice(start, min(start + step, len(W)))


def _widened(W: Array) -> Array:
    """A block of W to compute with: itself, or its values in float32 until the next block of this thread."""
    if W.dtype != BFLOAT16:
        return W
    place: Array | None = getattr(_place, "numbers", None)
    if place is None or place.size < W.size:
        place = _place.numbers = np.empty(W.size, dtype=np.float32)
    wide = place[: W.size].reshape(W.shape)
    np.copyto(wide, W)
    return wide


def times_transposed(x: Array, W: Array) -> Array:
    """x W^T: x (rows, d_in), W (d_out, d_in) -> (rows, d_out) in the dtype of x."""
    if _is_whole(len(x), W):
        whole: Array = x @ _widened(W).T
        return whole
    blocks = _blocks(len(x), W)
    y = np.empty((len(x), len(W)), dtype=x.dtype)
    for block in blocks:
        np.matmul(x, _widened(W[block]).T, out=y[:, block])
    return y


def times(dy: Array, W: Array) -> Array:
    """dy W: dy (rows, d_out), W (d_out, d_in) -> (rows, d_in) in the dtype of dy, a sum over the blocks of W."""
    if _is_whole(len(dy), W):
        whole: Array = dy @ _widened(W)
        return whole
    first, *rest = _blocks(len(dy), W)
    dx: Array = dy[:, first] @ _widened(W[first])
    for block in rest:
        dx += dy[:, block] @ _widened(W[block])
    return dx
