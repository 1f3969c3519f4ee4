"""Scores of attention between contents and relative positions."""

from __future__ import annotations

from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module, scatter_add


def position_scores(x: Tensor, table: Tensor, buckets: Array, *, of_keys: bool = False) -> Tensor:
    """Products of every content with the vector of its relative position (He et al., arXiv 2006.03654, Eq. 4).

    y[b, h, t, s] = x[b, t, h] . table[buckets[t, s], h], content to position; or, `of_keys`, with x[b, s, h] in the
    place of x[b, t, h], position to content.

    Parameters
    ----------
    x : (B, T, H, D) queries, or (B, S, H, D) keys
    table : (N, H, D), a vector for every bucket and head
    buckets : integers (T, S), 0 to N - 1

    Returns
    -------
    (B, H, T, S). All products x . table are formed first, N a content, and then picked from.
    """
    xp, n_buckets = array_module(x.data), len(table.data)
    index = buckets.T if of_keys else buckets  # (contents, what they meet)
    contents, vectors = x.data.swapaxes(1, 2), table.data.swapaxes(0, 1)  # (B, H, T or S, D), (H, N, D)
    row = xp.arange(len(index))[:, None]
    picked = (contents @ vectors.swapaxes(1, 2))[:, :, row, index]  # (B, H, T or S, S or T)
    saved_x = contents if table.watched else None
    saved_table = vectors if x.watched else None

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        dy = dy.swapaxes(2, 3) if of_keys else dy
        cells = (row * n_buckets + index).reshape(-1)  # of all products (contents, N), flattened
        products = xp.zeros((*dy.shape[:3], n_buckets), dtype=dy.dtype)  # their cotangent (B, H, T or S, N)
        each = row.size * n_buckets
        for sums, slope in zip(products.reshape(-1, each), dy.reshape(-1, cells.size), strict=True):
            scatter_add(sums, cells, slope)
        dx = None if saved_table is None else (products @ saved_table).swapaxes(1, 2)
        d_table = None
        if saved_x is not None:
            d_table = (products.swapaxes(2, 3) @ saved_x).sum(axis=0).swapaxes(0, 1)  # (N, H, D)
        return dx, d_table

    return record(picked.swapaxes(2, 3) if of_keys else picked, (x, table), vjp)
