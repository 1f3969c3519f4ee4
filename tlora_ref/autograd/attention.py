"""Softmax attention as one primitive: blocks of queries, grouped heads, masks, and no saved probabilities.

On a CPU some heads of long sequences and others are computed side by side: BLAS would share out products that are too
small for it, and leave the softmax between them to one core.

Legend: B batch, T queries, S keys, G key/value heads, R query heads a group (G * R query heads), D channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from tlora_ref.autograd.basic import row_dot
from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.autograd.visibility import Block, Mask, Visibility, query_blocks
from tlora_ref.backend import CACHED, Array, Device, array_module, device_of

#: Scores of all heads from which they go side by side. Before, it costs more than it gains: BLAS's own thread looks for
#: work a while, on the core that the second thread needs.
SHARED_SCORES = 2**23
#: Samples, groups, and heads of a group.
Part = tuple[slice, slice, slice]


def _is_shared(q: Array, blocks: Sequence[Block]) -> bool:
    """Whether the heads of q (B, G, R, T, D) go side by side."""
    heads = math.prod(q.shape[:3])
    return heads * sum(block.scores for block in blocks) >= SHARED_SCORES and device_of(q).at_once() > 1


def _run(tasks: Sequence[Callable[[], None]], device: Device, *, shared: bool) -> None:
    """The tasks, side by side if they are shared, else in turn."""
    if shared:
        device.side_by_side(tasks)
    else:
        for task in tasks:
            task()


def _parts(q: Array, blocks: Sequence[Block], *, shared: bool, whole_batch: bool = False) -> list[Part]:
    """The heads of q (B, G, R, T, D) in parts to be done side by side: of so many that a block of queries has scores
    that fit a cache; all of them where they are not shared. No bit depends on it."""
    B, G, R = q.shape[:3]
    each = max([1, *(block.scores for block in blocks)])
    heads = max(1, CACHED // each) if shared else B * G * R
    b, g, r = max(1, heads // (G * R)), max(1, heads // R), min(R, heads)
    if whole_batch:
        b = B
    return [
        (slice(i, i + b), slice(j, j + g), slice(k, k + r))
        for i in range(0, B, b)
        for j in range(0, G, g)
        for k in range(0, R, r)
    ]


def _heads(x: Array, groups: int) -> Array:
    """(B, T, G*R, D) -> (B, G, R, T, D), a view."""
    B, T, H, D = x.shape
    return x.reshape(B, T, groups, H // groups, D).transpose(0, 2, 3, 1, 4)


def _exponentials(scores: Array, mask: Mask | None, shift: Array) -> Array:
    """exp(scores - shift) in place, 0 at hidden keys.

    Hidden scores become 0 for the exponential and their probabilities 0 after it, both by a product with the mask:
    exp(-inf) would be right too, but is many times slower.
    """
    scores -= shift
    if mask is not None:
        scores[..., mask.keys] *= mask.visible
    array_module(scores).exp(scores, out=scores)
    if mask is not None:
        scores[..., mask.keys] *= mask.visible
    return scores


def _largest(scores: Array, mask: Mask | None) -> Array:
    """The largest visible score of every row (..., 1); 0 where none is."""
    if mask is None:
        return scores.max(axis=-1, keepdims=True)
    xp = array_module(scores)
    top = (scores[..., mask.keys] + mask.penalty).max(axis=-1, keepdims=True)
    for beside in (scores[..., : mask.keys.start], scores[..., mask.keys.stop :]):
        if beside.shape[-1]:
            top = xp.maximum(top, beside.max(axis=-1, keepdims=True))
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

    def part(self, part: Part) -> _Saved:
        """That of some heads (views)."""
        b, g, r = part
        bias = self.bias if self.bias is None else self.bias[part] if self.bias.ndim == 5 else self.bias[g, r]
        return replace(self, q=self.q[part], k=self.k[b, g], v=self.v[b, g], bias=bias, log_sum=self.log_sum[part])


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
    blocks = query_blocks(saved.q, S, see)
    shared = _is_shared(saved.q, blocks)
    parts = _parts(saved.q, blocks, shared=shared)
    tasks = [
        partial(_attend, saved.part(part), block, part[0], _heads(y, G)[part])
        for block, part in product(reversed(blocks), parts)  # the largest blocks first
    ]
    _run(tasks, device_of(y), shared=shared)
    parents = (q, k, v) if bias is None else (q, k, v, bias)
    needs, shapes = [parent.watched for parent in parents], [parent.shape for parent in parents]

    def vjp(dy: Array) -> list[Array | None]:
        slopes = _attention_vjp(saved, dy, shapes)
        return [slope if need else None for slope, need in zip(slopes, needs, strict=True)]

    return record(y, parents, vjp)


def _attend(saved: _Saved, block: Block, samples: slice, y: Array) -> None:
    """y[block] = softmax(scores) v for one part of the heads and one block, and its log-sum-exp."""
    xp, mask = array_module(y), block.mask and block.mask.of_samples(samples)
    scores = _scores(saved, block)
    shift = _largest(scores, mask)
    weights = _exponentials(scores, mask, shift)
    total = weights.sum(axis=-1, keepdims=True)
    total[total == 0.0] = 1.0  # a query that sees nothing gets zeros
    saved.log_sum[..., block.rows, :] = shift + xp.log(total)
    y[..., block.rows, :] = (weights @ saved.v[..., block.keys, :]) / total


def _attention_vjp(saved: _Saved, dy: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Cotangents of q, k, v (and the bias); k and v of a group have one of each of its heads, which add up."""
    xp, S = array_module(dy), saved.k.shape[-2]
    (B, G, R), blocks = saved.q.shape[:3], query_blocks(saved.q, S, saved.see)
    slopes = [xp.zeros(shape, dtype=dy.dtype) for shape in shapes]
    dq, dk, dv = (_heads(slope, G) for slope in slopes[:3])
    of_heads = [xp.zeros((B, G, R, S, x.shape[-1]), dtype=dy.dtype) for x in (saved.k, saved.v)]
    d_bias = None if saved.bias is None else slopes[3].reshape(saved.bias.shape)
    dy = _heads(dy, G)
    shared, one_bias = _is_shared(saved.q, blocks), saved.bias is not None and saved.bias.ndim == 4
    tasks = [
        partial(
            _attend_vjp,
            saved.part(part),
            blocks,
            part,
            dy[part],
            (dq[part], of_heads[0][part], of_heads[1][part]),
            d_bias,
        )
        for part in _parts(saved.q, blocks, shared=shared, whole_batch=one_bias)
    ]
    _run(tasks, device_of(dy), shared=shared)
    dk[...], dv[...] = (x.sum(axis=2, keepdims=True) for x in of_heads)
    return slopes


def _attend_vjp(
    saved: _Saved,
    blocks: Sequence[Block],
    part: Part,
    dy: Array,
    slopes: tuple[Array, Array, Array],
    d_bias: Array | None,
) -> None:
    """Adds one part's cotangents of q, k, v and the bias. With P the probabilities, again from the saved log-sum-exp:

    dV = P^T dY,   dP = dY V^T,   dscores = P * (dP - rowsum(P * dP)),   dQ = scale dscores K,   dK = scale dscores^T Q

    A cap's own slope, 1 - tanh^2, is a factor of dscores. `saved.q` holds the scale already: dK has it, dQ does not.
    """
    dq, dk, dv = slopes
    for block in blocks:
        rows, keys, mask = block.rows, block.keys, block.mask and block.mask.of_samples(part[0])
        scores = _scores(saved, block)
        cap_slope = None if saved.cap is None else 1.0 - (scores * (1.0 / saved.cap)) ** 2
        p = _exponentials(scores, mask, saved.log_sum[..., rows, :])
        ds = dy[..., rows, :] @ saved.v[..., keys, :].swapaxes(-1, -2)  # dP (B, G, R, queries, keys)
        dv[..., keys, :] += p.swapaxes(-1, -2) @ dy[..., rows, :]
        ds -= row_dot(p, ds)
        ds *= p
        if cap_slope is not None:
            ds *= cap_slope
        if d_bias is not None:
            own = d_bias[part] if d_bias.ndim == 5 else d_bias[part[1:]]
            own[..., rows, keys] += ds if d_bias.ndim == 5 else ds.sum(axis=0)
        dq[..., rows, :] = (ds @ saved.k[..., keys, :]) * saved.scale
        dk[..., keys, :] += ds.swapaxes(-1, -2) @ saved.q[..., rows, :]
