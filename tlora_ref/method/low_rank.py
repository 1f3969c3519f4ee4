"""The adapted module: its output, its merged weight, its gradient."""

from __future__ import annotations

from tlora_ref.backend import Array


def adapted_output(x: Array, W: Array, A: Array, B: Array, s: float) -> Array:
    """Eq. 1: y = x W^T + s (x A^T) B^T, s = alpha_i / r_i.

    x (..., d_in), W (d_out, d_in), A (r, d_in), B (d_out, r): y (..., d_out)
    """
    return x @ W.T + s * (x @ A.T) @ B.T


def merged_weight(W: Array, A: Array, B: Array, s: float) -> Array:
    """Eq. 1, merged: W' = W + s B A, (d_out, d_in)."""
    return W + s * (B @ A)


def gradient_B(G: Array, A: Array, s: float) -> Array:
    """Eq. 2: dL/dB = s G A^T, (d_out, r), with G = dL/dW' (d_out, d_in).

    Erratum: the paper prints G A^T, without s. The chain rule through W' = W + s B A gives the factor.
    """
    return s * (G @ A.T)


def sgd_weight_update(G: Array, A: Array, s: float, lr: float) -> Array:
    """Eq. 2: what one SGD step on B does to W', dW = -lr s^2 G A^T A, (d_out, d_in): every row in A's row space.

    Erratum: the paper prints one factor s; the second comes from dL/dB. Under AdamW the direction differs, but every
    row of the update still lies in the row space of A.
    """
    return -lr * s * gradient_B(G, A, s) @ A
