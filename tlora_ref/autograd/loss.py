"""Cross entropy, alone and fused with the output layer so that the logits of a batch are never held whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from tlora_ref.autograd.elsewhere import stored, total
from tlora_ref.autograd.products import times, times_transposed
from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module

#: Logits held at once (24 MiB in float32), and the fewest and the most rows of them: a product of fewer is slow.
LOGITS, FEWEST, MOST = 12 * 2**19, 64, 256


def _loss_and_slope(logits: Array, targets: Array) -> tuple[Array, Callable[[], Array]]:
    """In place: the summed loss -log softmax(logits)[target] (a scalar array), and softmax - one_hot (n, classes) for
    who asks."""
    xp = array_module(logits)
    rows = xp.arange(logits.shape[0])
    logits -= logits.max(axis=-1, keepdims=True)
    at_target = logits[rows, targets]  # (n,)
    xp.exp(logits, out=logits)
    summed = total(logits)  # (n, 1)

    @cache
    def slope() -> Array:
        xp.divide(logits, summed, out=logits)
        logits[rows, targets] -= 1.0
        return stored(logits)

    return xp.log(summed).sum() - at_target.sum(), slope


def _capped(logits: Array, targets: Array, cap: float) -> tuple[Array, Callable[[], Array]]:
    """`_loss_and_slope` of cap tanh(logits / cap), the slope with respect to the logits before the cap."""
    t = array_module(logits).tanh(logits * (1.0 / cap))
    loss, slope = _loss_and_slope(t * cap, targets)

    @cache
    def through() -> Array:
        before = slope()
        before *= 1.0 - t * t
        return before

    return loss, through


def cross_entropy(logits: Tensor, targets: Array, divisor: float) -> Tensor:
    """sum_i -log softmax(logits_i)[targets_i] / divisor, for logits (n, classes) and integer targets (n,)."""
    loss, slope = _loss_and_slope(logits.data.copy(), targets)
    saved = slope() if logits.watched else None

    def vjp(dy: Array) -> tuple[Array | None]:
        return (None if saved is None else saved * (dy / divisor),)

    return record(loss / divisor, (logits,), vjp)


def row_chunks(rows: int, vocab: int) -> list[slice]:
    """The rows of (rows, vocab) logits in chunks, as few as may be and about as long as each other."""
    most = min(MOST, max(FEWEST, LOGITS // vocab))
    number = math.ceil(rows / most)
    return [slice(rows * i // number, rows * (i + 1) // number) for i in range(number)]


def linear_cross_entropy(h: Tensor, W: Tensor, targets: Array, divisor: float, cap: float | None = None) -> Tensor:
    """cross_entropy(h W^T, targets, divisor), the rows in chunks; with a cap, logits z become cap tanh(z / cap).

    h (n, d), W (vocab, d), targets (n,). The slopes are known as soon as a chunk's logits are, so the gradients are
    formed on the way forward and the VJP only scales them: no logits are saved and none are computed twice.
    """
    xp, weight = array_module(h.data), W.data
    dh = xp.empty_like(h.data) if h.watched else None
    dW = xp.zeros(weight.shape, dtype=h.dtype) if W.watched else None

    def chunk_loss(chunk: slice) -> Array:  # a function, so that a chunk's logits go before the next one's come
        logits = stored(times_transposed(h.data[chunk], weight))  # (chunk, vocab)
        loss, slope = _loss_and_slope(logits, targets[chunk]) if cap is None else _capped(logits, targets[chunk], cap)
        if dh is not None:
            dh[chunk] = times(slope(), weight)
        if dW is not None:
            dW[...] += slope().T @ h.data[chunk]
        return loss

    loss = sum((chunk_loss(chunk) for chunk in row_chunks(h.shape[0], weight.shape[0])), xp.zeros((), dtype=h.dtype))

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        factor = dy / divisor
        return None if dh is None else dh * factor, None if dW is None else dW * factor

    return record(loss / divisor, (h, W), vjp)
