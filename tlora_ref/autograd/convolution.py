"""Causal convolution over tokens, each channel by itself."""

from __future__ import annotations

from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module


def causal_convolution(x: Tensor, weight: Tensor, before: Array | None = None) -> Tensor:
    """y[b, t, c] = sum_j weight[c, j] x[b, t - (L - 1) + j, c]: a token sees itself and the L - 1 before it.

    x (batch, tokens, d), weight (d, L), before (batch, L - 1, d): what stands before the first token, a constant, zeros
    if not given. y (batch, tokens, d). With P the tokens padded in front by `before`:
    dx[t] = sum_j weight[:, j] dy[t + (L - 1) - j] and dweight[c, j] = sum_t dy[t, c] P[t + j, c].
    """
    xp, w, (batch, tokens, d) = array_module(x.data), weight.data, x.shape
    taps = w.shape[1]
    front = xp.zeros((batch, taps - 1, d), dtype=x.dtype) if before is None else before
    padded = xp.concatenate([front, x.data], axis=1)  # (batch, L - 1 + tokens, d)
    y = padded[:, :tokens] * w[:, 0]
    for j in range(1, taps):
        y += padded[:, j : j + tokens] * w[:, j]
    need_x, saved = x.watched, padded if weight.watched else None

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        dx = None
        if need_x:
            dx = xp.zeros_like(dy)
            for j in range(taps):
                later = taps - 1 - j  # the token that sees this one through tap j
                dx[:, : tokens - later] += dy[:, later:] * w[:, j]
        if saved is None:
            return dx, None
        return dx, xp.stack([(dy * saved[:, j : j + tokens]).sum(axis=(0, 1)) for j in range(taps)], axis=1)

    return record(y, (x, weight), vjp)
