"""Cross entropy, alone and fused with the output layer so that the logits of a batch are never held whole."""

from __future__ import annotations

from typing import Any

from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module

#: Rows of logits computed at once. A multiple of what a matrix product needs to run at full speed.
CHUNK = 256


def _loss_and_slope(logits: Array, targets: Array) -> Any:
    """In place: the summed loss -log softmax(logits)[target] (a scalar array), and softmax - one_hot (n, classes)."""
    xp = array_module(logits)
    rows = xp.arange(logits.shape[0])
    logits -= logits.max(axis=-1, keepdims=True)
    at_target = logits[rows, targets]  # (n,)
    xp.exp(logits, out=logits)
    total = logits.sum(axis=-1, keepdims=True)  # (n, 1)
    loss = xp.log(total).sum() - at_target.sum()
    logits /= total
    logits[rows, targets] -= 1.0
    return loss, logits


def cross_entropy(logits: Tensor, targets: Array, divisor: float) -> Tensor:
    """sum_i -log softmax(logits_i)[targets_i] / divisor, for logits (n, classes) and integer targets (n,)."""
    loss, slope = _loss_and_slope(logits.data.copy(), targets)

    def vjp(dy: Array) -> tuple[Array]:
        return (slope * (dy / divisor),)

    return record(loss / divisor, (logits,), vjp)


def linear_cross_entropy(h: Tensor, W: Tensor, targets: Array, divisor: float) -> Tensor:
    """cross_entropy(h W^T, targets, divisor), the rows in chunks.

    h (n, d), W (vocab, d), targets (n,). The slopes are known as soon as a chunk's logits are, so the gradients are
    formed on the way forward and the VJP only scales them: no logits are saved and none are computed twice.
    """
    xp, weight = array_module(h.data), W.data
    dh = xp.empty_like(h.data) if h.watched else None
    dW = xp.zeros_like(weight) if W.watched else None
    loss = xp.zeros((), dtype=h.dtype)
    for start in range(0, h.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        part, slope = _loss_and_slope(h.data[chunk] @ weight.T, targets[chunk])  # (chunk, vocab)
        loss = loss + part
        if dh is not None:
            xp.matmul(slope, weight, out=dh[chunk])
        if dW is not None:
            dW += slope.T @ h.data[chunk]

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        factor = dy / divisor
        return None if dh is None else dh * factor, None if dW is None else dW * factor

    return record(loss / divisor, (h, W), vjp)
