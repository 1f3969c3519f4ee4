"""Softmax attention as one primitive: blocks of queries, grouped heads, masks, and no saved probabilities.

Legend: B batch, T queries, S keys, G key/value heads, R query heads a group (G * R query heads), D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module

#: Queries handled at once: a block of scores is (B, G, R, BLOCK, S), and keys after a causal block are never touched.
BLOCK = 128


@dataclass(frozen=True)
class Visibility:
    """Which keys a query may see.

    Query t stands at position `S - T + t` among the keys (with a key cache, T < S). `keys` (B, S) is False at padding;
    `window` is the number of latest positions that a query sees, itself included.
    """

    causal: bool = False
    window: int | None = None
    keys: Array | None = None

    def span(self, start: int, stop: int, offset: int, S: int) -> tuple[int, int]:
        """The keys [low, high) that any of the queries [start, stop) may see."""
        high = min(S, offset + stop) if self.causal else S
        low = max(0, offset + start - self.window + 1) if self.window is not None else 0
        return low, high

    def allowed(self, xp: Any, queries: tuple[int, int], keys: tuple[int, int], offset: int) -> Array | None:
        """True where a query sees a key, broadcastable to (B, G, R, queries, keys); None where all do."""
        (start, stop), (low, high) = queries, keys
        mask = None
        needs_window = self.window is not None and offset + stop - 1 - low >= self.window
        if (self.causal and high - 1 > offset + start) or needs_window:
            distance = (xp.arange(start, stop) + offset)[:, None] - xp.arange(low, high)[None, :]
            mask = xp.ones(distance.shape, dtype=bool)
            if self.causal:
                mask &= distance >= 0
            if self.window is not None:
                mask &= distance < self.window
        if self.keys is None:
            return mask
        visible = self.keys[:, None, None, None, low:high]  # (B, 1, 1, 1, keys)
        return visible if mask is None else visible & mask


def _blocks(T: int, S: int, see: Visibility) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, low, high): queries [start, stop) against keys [low, high)."""
    for start in range(0, T, BLOCK):
        stop = min(T, start + BLOCK)
        yield (start, stop, *see.span(start, stop, S - T, S))


def _heads(x: Array, groups: int) -> Array:
    """(B, T, G*R, D) -> (B, G, R, T, D), a view."""
    B, T, H, D = x.shape
    return x.reshape(B, T, groups, H // groups, D).transpose(0, 2, 3, 1, 4)


def _scores(q: Array, k: Array, bias: Array | None, scale: float, block: tuple[int, int, int, int]) -> Array:
    """scale * q k^T + bias for one block: (B, G, R, queries, keys)."""
    start, stop, low, high = block
    scores = (q[..., start:stop, :] * scale) @ k[..., low:high, :].swapaxes(-1, -2)
    if bias is not None:
        scores += bias[..., start:stop, low:high]
    return scores


def _softmax(scores: Array, allowed: Array | None) -> tuple[Array, Array]:
    """In place: probabilities over the last axis, and log-sum-exp (..., 1). A row that sees nothing is all zero."""
    xp = array_module(scores)
    if allowed is not None:
        hidden = xp.broadcast_to(~allowed, scores.shape)
        scores[hidden] = -xp.inf
    top = scores.max(axis=-1, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0).astype(scores.dtype)
    scores -= top
    if allowed is not None:
        scores[hidden] = 0.0  # exp(-inf) is right but many times slower than exp(0) and a zero
    xp.exp(scores, out=scores)
    if allowed is not None:
        scores[hidden] = 0.0
    total = scores.sum(axis=-1, keepdims=True)
    total[total == 0.0] = 1.0
    scores /= total
    return scores, top + xp.log(total)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, see: Visibility, bias: Tensor | None = None
) -> Tensor:
    """softmax(scale * q k^T + bias) v (Vaswani et al., arXiv 1706.03762, Eq. 1), grouped-query.

    Parameters
    ----------
    q : (B, T, heads, D)
    k, v : (B, S, G, D), heads a multiple of G
    scale : 1/sqrt(D), or 1 for T5
    see : which keys a query sees
    bias : (heads, T, S), added to the scores (T5's relative position bias)

    Returns
    -------
    (B, T, heads, D). Saves q, k, v and one log-sum-exp a query: the VJP computes the probabilities again, so memory
    grows with T, not with T * S.
    """
    xp = array_module(q.data)
    (B, T, H, D), (S, G) = q.shape, k.shape[1:3]
    qh, kh, vh = _heads(q.data, G), _heads(k.data, G), _heads(v.data, G)  # (B, G, R or 1, T or S, D)
    shift = None if bias is None else bias.data.reshape(G, H // G, T, S)
    y = xp.empty((B, T, H, v.shape[3]), dtype=q.dtype)
    yh = _heads(y, G)
    log_sums = xp.empty((B, G, H // G, T, 1), dtype=q.dtype)
    for block in _blocks(T, S, see):
        start, stop, low, high = block
        allowed = see.allowed(xp, (start, stop), (low, high), S - T)
        p, log_sums[..., start:stop, :] = _softmax(_scores(qh, kh, shift, scale, block), allowed)
        yh[..., start:stop, :] = p @ vh[..., low:high, :]

    def vjp(dy: Array) -> tuple[Array | None, ...]:
        dq, dk, dv = (xp.zeros(shape, dtype=qh.dtype) for shape in shapes)
        dqh, dkh, dvh, dyh = _heads(dq, G), _heads(dk, G), _heads(dv, G), _heads(dy, G)
        dshift = None if shift is None else xp.zeros_like(shift)
        for block in _blocks(T, S, see):
            start, stop, low, high = block
            p = _probabilities(qh, kh, shift, scale, block, log_sums, see)
            dp = dyh[..., start:stop, :] @ vh[..., low:high, :].swapaxes(-1, -2)
            dvh[..., low:high, :] += (p.swapaxes(-1, -2) @ dyh[..., start:stop, :]).sum(axis=2, keepdims=True)
            dp -= (p * dp).sum(axis=-1, keepdims=True)
            dp *= p  # the cotangent of the scores
            if dshift is not None:
                dshift[..., start:stop, low:high] += dp.sum(axis=0)
            dp *= scale
            dqh[..., start:stop, :] = dp @ kh[..., low:high, :]
            dkh[..., low:high, :] += (dp.swapaxes(-1, -2) @ qh[..., start:stop, :]).sum(axis=2, keepdims=True)
        dbias = None if dshift is None else dshift.reshape(H, T, S)
        needed = [d if n else None for d, n in zip((dq, dk, dv, dbias), needs, strict=True)]
        return tuple(needed if has_bias else needed[:3])

    shapes, has_bias = (q.shape, k.shape, v.shape), bias is not None
    needs = (q.watched, k.watched, v.watched, bias is not None and bias.watched)
    return record(y, (q, k, v) if bias is None else (q, k, v, bias), vjp)


def _probabilities(
    q: Array,
    k: Array,
    bias: Array | None,
    scale: float,
    block: tuple[int, int, int, int],
    log_sums: Array,
    see: Visibility,
) -> Array:
    """The probabilities of one block again, from the saved log-sum-exp: (B, G, R, queries, keys)."""
    start, stop, low, high = block
    xp, offset = array_module(q), k.shape[-2] - q.shape[-2]
    p = _scores(q, k, bias, scale, block)
    p -= log_sums[..., start:stop, :]
    allowed = see.allowed(xp, (start, stop), (low, high), offset)
    if allowed is not None:
        hidden = xp.broadcast_to(~allowed, p.shape)
        p[hidden] = 0.0
    xp.exp(p, out=p)
    if allowed is not None:
        p[hidden] = 0.0
    return p
