"""Softmax attention as one primitive: blocks of queries, grouped heads, masks, and no saved probabilities.

Legend: B batch, T queries, S keys, G key/value heads, R query heads a group (G * R query heads), D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.autograd.basic import row_dot
from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module

#: Queries handled at once: a block of scores is (B, G, R, BLOCK, S), and keys after a causal block are never touched.
BLOCK = 128


@dataclass(frozen=True)
class Visibility:
    """Which keys a query may see.

    Query t stands at position `S - T + t` among the keys (with a key cache, T < S). `keys` (B, S) is False at padding;
    `window` is the number of latest positions that a query sees, itself included; without `causal`, as many on its
    other side too. `first` (B, T), on the host, is the first key that each query may see: where its sample begins, if
    several stand in one row.
    """

    causal: bool = False
    window: int | None = None
    keys: Array | None = None
    first: Array | None = None

    def span(self, start: int, stop: int, offset: int, S: int) -> tuple[int, int]:
        """The keys [low, high) that any of the queries [start, stop) may see."""
        reach = S if self.window is None else self.window - 1  # how far a query sees
        high = min(S, max(0, offset + stop + (0 if self.causal else reach)))
        begins = 0 if self.first is None else int(self.first[:, start:stop].min())
        return max(begins, offset + start - reach), high

    def allowed(self, xp: Any, queries: tuple[int, int], keys: tuple[int, int], offset: int) -> Array | None:
        """True where a query sees a key, broadcastable to (B, G, R, queries, keys); None where all do."""
        (start, stop), (low, high) = queries, keys
        mask = None
        furthest = max(offset + stop - 1 - low, high - 1 - offset - start)
        needs_window = self.window is not None and furthest >= self.window
        if (self.causal and high - 1 > offset + start) or needs_window:
            distance = (xp.arange(start, stop) + offset)[:, None] - xp.arange(low, high)[None, :]
            mask = xp.ones(distance.shape, dtype=bool)
            if self.causal:
                mask &= distance >= 0
            if self.window is not None:
                mask &= (distance if self.causal else abs(distance)) < self.window
        if self.first is not None:
            begun = np.arange(low, high) >= self.first[:, start:stop, None]  # (B, queries, keys)
            begun = xp.asarray(begun[:, None, None])
            mask = begun if mask is None else begun & mask
        if self.keys is None:
            return mask
        visible = self.keys[:, None, None, None, low:high]  # (B, 1, 1, 1, keys)
        return visible if mask is None else visible & mask


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) against keys [low, high), and which of these they may see (None: all)."""

    rows: slice
    keys: slice
    allowed: Array | None


def _blocks(xp: Any, T: int, S: int, see: Visibility) -> Iterator[Block]:
    """All blocks of queries, in order."""
    for start in range(0, T, BLOCK):
        stop = min(T, start + BLOCK)
        low, high = see.span(start, stop, S - T, S)
        yield Block(slice(start, stop), slice(low, high), see.allowed(xp, (start, stop), (low, high), S - T))


def _heads(x: Array, groups: int) -> Array:
    """(B, T, G*R, D) -> (B, G, R, T, D), a view."""
    B, T, H, D = x.shape
    return x.reshape(B, T, groups, H // groups, D).transpose(0, 2, 3, 1, 4)


def _softmax(scores: Array, allowed: Array | None, log_sum: Array | None = None) -> tuple[Array, Array]:
    """In place: probabilities over the last axis, and the log-sum-exp (..., 1) (computed unless it is given).

    A row that sees nothing gets zeros. Hidden scores become 0 for the exponential and their probabilities 0 after it,
    both by a product with the mask: exp(-inf) would be right too, but is many times slower.
    """
    xp = array_module(scores)
    visible = None if allowed is None else allowed.astype(scores.dtype)
    shift = log_sum
    if shift is None:
        shift = _largest(scores, allowed)
    scores -= shift
    if visible is not None:
        scores *= visible
    xp.exp(scores, out=scores)
    if visible is not None:
        scores *= visible
    if log_sum is not None:
        return scores, log_sum
    total = scores.sum(axis=-1, keepdims=True)
    total[total == 0.0] = 1.0
    scores /= total
    return scores, shift + xp.log(total)


def _largest(scores: Array, allowed: Array | None) -> Array:
    """The largest visible score of every row (..., 1); 0 where none is."""
    xp = array_module(scores)
    if allowed is None:
        return scores.max(axis=-1, keepdims=True)
    penalty = xp.zeros(allowed.shape, dtype=scores.dtype)
    penalty[~allowed] = -xp.inf
    top = (scores + penalty).max(axis=-1, keepdims=True)
    return xp.where(xp.isfinite(top), top, 0.0).astype(scores.dtype)


@dataclass(frozen=True)
class _Saved:
    """What the VJP needs: scale * q, k, v and the bias as (B, G, R or 1, tokens, D), and one log-sum-exp a query."""

    q: Array
    k: Array
    v: Array
    bias: Array | None
    log_sum: Array
    scale: float
    cap: float | None
    see: Visibility


def _scores(saved: _Saved, block: Block) -> Array:
    """q k^T + bias for one block, q scaled already, and capped where a cap is set: (B, G, R, queries, keys)."""
    scores = saved.q[..., block.rows, :] @ saved.k[..., block.keys, :].swapaxes(-1, -2)
    if saved.bias is not None:
        scores += saved.bias[..., block.rows, block.keys]
    if saved.cap is not None:
        scores *= 1.0 / saved.cap
        array_module(scores).tanh(scores, out=scores)
        scores *= saved.cap
    return scores


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    see: Visibility,
    bias: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v (Vaswani et al., arXiv 1706.03762, Eq. 1), grouped-query.

    Parameters
    ----------
    q : (B, T, heads, D)
    k, v : (B, S, G, D), heads a multiple of G
    scale : 1/sqrt(D), or 1 for T5
    see : which keys a query sees
    bias : (heads, T, S), or one a sample (B, heads, T, S), added to the scores (relative positions)
    cap : scores s become cap tanh(s / cap) before the softmax (Gemma 2, arXiv 2408.00118, section 2)

    Returns
    -------
    (B, T, heads, D). Saves q, k, v and one log-sum-exp a query: the VJP computes the probabilities again, so memory
    grows with T, not with T * S.
    """
    xp = array_module(q.data)
    (B, T, H), (S, G) = q.shape[:3], k.shape[1:3]
    y = xp.empty((B, T, H, v.shape[3]), dtype=q.dtype)
    saved = _Saved(
        q=_heads(q.data * scale, G),
        k=_heads(k.data, G),
        v=_heads(v.data, G),
        bias=None if bias is None else bias.data.reshape(*bias.shape[:-3], G, H // G, T, S),
        log_sum=xp.empty((B, G, H // G, T, 1), dtype=q.dtype),
        scale=scale,
        cap=cap,
        see=see,
    )

    for block in _blocks(xp, T, S, see):
        scores = _scores(saved, block)
        p, saved.log_sum[..., block.rows, :] = _softmax(scores, block.allowed)
        _heads(y, G)[..., block.rows, :] = p @ saved.v[..., block.keys, :]
    parents = (q, k, v) if bias is None else (q, k, v, bias)
    needs = [parent.watched for parent in parents]
    shapes = [parent.shape for parent in parents]

    def vjp(dy: Array) -> list[Array | None]:
        slopes = _attention_vjp(saved, dy, shapes)
        return [slope if need else None for slope, need in zip(slopes, needs, strict=True)]

    return record(y, parents, vjp)


def _attention_vjp(saved: _Saved, dy: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Cotangents of q, k, v (and the bias). With P the probabilities, again from the saved log-sum-exp:

    dV = P^T dY,   dP = dY V^T,   dscores = P * (dP - rowsum(P * dP)),   dQ = scale dscores K,   dK = scale dscores^T Q

    A cap's own slope, 1 - tanh^2, is a factor of dscores.
    """
    xp, (T, S) = array_module(dy), (saved.q.shape[-2], saved.k.shape[-2])
    G, scale = saved.k.shape[1], saved.scale  # saved.q holds the factor already: dK has it, dQ does not
    slopes = [xp.zeros(shape, dtype=dy.dtype) for shape in shapes]
    dq, dk, dv = (_heads(slope, G) for slope in slopes[:3])
    dy = _heads(dy, G)
    for block in _blocks(xp, T, S, saved.see):
        rows, keys = block.rows, block.keys
        scores = _scores(saved, block)
        cap_slope = None if saved.cap is None else 1.0 - (scores * (1.0 / saved.cap)) ** 2
        p, _ = _softmax(scores, block.allowed, saved.log_sum[..., rows, :])
        ds = dy[..., rows, :] @ saved.v[..., keys, :].swapaxes(-1, -2)  # dP (B, G, R, queries, keys)
        dv[..., keys, :] += (p.swapaxes(-1, -2) @ dy[..., rows, :]).sum(axis=2, keepdims=True)
        ds -= row_dot(p, ds)
        ds *= p
        if cap_slope is not None:
            ds *= cap_slope
        if saved.bias is not None:
            of_samples = ds if len(shapes[3]) == 4 else ds.sum(axis=0)
            slopes[3][..., rows, keys] += of_samples.reshape(*shapes[3][:-2], *ds.shape[-2:])
        dq[..., rows, :] = (ds @ saved.k[..., keys, :]) * scale
        dk[..., keys, :] += (ds.swapaxes(-1, -2) @ saved.q[..., rows, :]).sum(axis=2, keepdims=True)
    return slopes
