"""Products with a weight matrix, whatever it is held in.

A matrix held in bfloat16 is widened to float32 where it is used, block by block, so that no more than a block of it is
there in four bytes. A matrix in float32 goes through the same blocks: which products are computed depends on shapes
alone, so both give the same bits. Small matrices are one block, and so are most large ones, unless few rows meet them:
then reading W is the work, and a block stays in the cache between its widening and its use.

For one row of x or a handful, as decoding has, y is formed by scalar products with the rows of W: these are read one
after the other, as memory likes it, where BLAS's own product reads several rows at once and takes twice the time or
more for a W that is in no cache.

For some rows more, as a short prompt has, y is formed as (W x^T)^T: OpenBLAS's AVX-512 kernels are slow at laying out
what stands on the left transposed, and there it is x then, and not the larger W. The bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from threading import local

import numpy as np

from tlora_ref.backend import BFLOAT16, Array, array_module, device_of
from tlora_ref.machine import AVX512_KERNELS, linear_algebra

#: Up to so many rows of x count as few.
FEW = 16
#: Numbers up to which W is one block, and numbers of a block beyond that: for few rows of x, and for more.
WHOLE_FOR_FEW = BLOCK_FOR_FEW = 2**19
WHOLE, BLOCK = 2**24, 2**21

#: Rows of x up to which y is formed by scalar products, and the fewest numbers of such a W: less is in a cache.
HANDFUL, UNCACHED = 4, 2**16
#: The longest scalar product that OpenBLAS forms in one thread: of a longer one in float64 the bits depend on how many.
IN_ONE = 10_000
#: Rows of x up to which y is formed as (W x^T)^T, and the fewest columns of such a W.
TURNED, LONG = 64, 256
#: Blocks of W from which scalar products are formed side by side.
SEVERAL = 8

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
    if _is_handful(x, W):
        return _scalar_products(x, W)
    turned = _is_turned(x, W)
    if _is_whole(len(x), W):
        whole: Array = np.ascontiguousarray((_widened(W) @ x.T).T) if turned else x @ _widened(W).T
        return whole
    blocks = _blocks(len(x), W)
    y = np.empty((len(x), len(W)), dtype=x.dtype)
    for block in blocks:
        if turned:
            y[:, block] = (_widened(W[block]) @ x.T).T
        else:
            np.matmul(x, _widened(W[block]).T, out=y[:, block])
    return y


def _is_handful(x: Array, W: Array) -> bool:
    """Whether y is formed by scalar products: of few rows with a large W, unless their bits depended on threads."""
    few = 0 < len(x) <= HANDFUL and W.size >= UNCACHED and array_module(W) is np
    return few and (W.shape[1] <= IN_ONE or x.dtype != np.float64)


def _is_turned(x: Array, W: Array) -> bool:
    """Whether (W x^T)^T is faster than x W^T: not in float64, nor with OpenBLAS's AVX2 kernel, nor for a small W."""
    fits = len(x) <= TURNED and W.size >= UNCACHED and W.shape[1] >= LONG and x.dtype == np.float32
    return fits and array_module(W) is np and _kernel() in AVX512_KERNELS


@cache
def _kernel() -> str | None:
    """The kernel that NumPy's BLAS works with; finding it takes milliseconds."""
    kernel: str | None = linear_algebra().get("kernel")
    return kernel


def _scalar_products(x: Array, W: Array) -> Array:
    """The same, each number by a scalar product of its own, so that no bit depends on blocks or threads."""
    y = np.empty((len(x), len(W)), dtype=x.dtype)

    def part(block: slice) -> None:
        np.vecdot(_widened(W[block]), x[:, None], out=y[:, block])

    tasks = [partial(part, block) for block in _blocks(len(x), W)]
    if len(tasks) >= SEVERAL:
        device_of(W).side_by_side(tasks)
    else:
        for task in tasks:
            task()
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
