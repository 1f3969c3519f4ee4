"""The rows of A in a low precision, direction by direction.

A spectral norm bounds the worst that rounding could do. It never does: the errors of single entries are independent.
To first order, if M = W C is off by E, the right singular vector v_k turns towards v_l by

    theta_kl = (sigma_k u_k^T E v_l + sigma_l u_l^T E v_k) / (sigma_k^2 - sigma_l^2)

(Stewart 1990), and u_l^T E v_k is a sum over independent roundings, whose standard deviation is known. So each theta is
held to a multiple of its own: a rotation that no spectral norm shows is many times that.
"""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.network import UNIT32
from tlora_ref.oracle.stages.spectrum import BLUNT, ROTATED
from tlora_ref.oracle.verdict import Verdict

#: Standard deviations that a sum of roundings may be off by: once in 1e15 for a normal one.
DEVIATIONS = 8.0


def judge_directions(
    A: Array, W: Array, C: Array, precision: Precision, svd: tuple[Array, Array, Array] | None = None
) -> Verdict | None:
    """The row of A that is turned most towards another singular vector of W C, for how far rounding turns it.

    A (r, d_in), W (d_out, d_in), C (d_in, d_in): each may be rounded to the storage, and W C too. None where that is
    no low one, or no row is determined. svd : U, sigma and the whole Vt of W C, where they are known already.
    """
    if precision.storage <= UNIT32 or not len(A):
        return None
    U, sigma, Vt = svd or np.linalg.svd(W @ C, full_matrices=True)
    bound = _bounds(U, sigma, Vt, W, C, precision)  # (d_in, d_in)
    lengths = np.linalg.norm(A, axis=1, keepdims=True)
    theta = A / np.where(lengths > 0.0, lengths, 1.0) @ Vt.T  # (r, d_in)
    own = np.argmax(np.abs(theta), axis=1)  # which singular vector each row is
    known = [k for k in range(len(A)) if (np.delete(bound[own[k]], own[k]) <= BLUNT).all()]
    if not known:
        return None
    stored = DEVIATIONS * _deviation(precision) * np.sqrt(A[known] ** 2 @ Vt.T**2)
    allowed, off = bound[own[known]] + stored, np.abs(theta[known])
    off[np.arange(len(known)), own[known]] = 0.0
    share = np.divide(off, allowed, out=np.where(off > 0.0, np.inf, 0.0), where=allowed > 0.0)
    row, towards = (int(i) for i in np.unravel_index(int(np.argmax(share)), off.shape))
    error, most = float(off[row, towards]), float(allowed[row, towards])
    outside = np.delete(off > allowed, own, axis=1)  # towards what is no row of A
    cause = None if error <= most or outside.any() else ROTATED
    seen = float(allowed.min())
    what = "directions of rows"
    return Verdict("initialize_a", what, error <= most, error, most, (known[row],), cause=cause, detects=seen)


def _deviation(precision: Precision) -> float:
    """The standard deviation of a rounding to nearest, relative to the number, where that is largest."""
    return precision.storage / math.sqrt(12.0)


def _bounds(U: Array, sigma: Array, Vt: Array, W: Array, C: Array, precision: Precision) -> Array:
    """(d_in, d_in): how far the singular vector of each row may be turned towards that of each column."""
    d_in, left = len(Vt), U.T[: len(sigma)]  # beyond d_out there is none
    unit = DEVIATIONS * _deviation(precision)
    values = np.concatenate([sigma, np.zeros(d_in - len(sigma))])
    # the variance of u_k^T E v_l: of M as it is stored, of C, and of W
    variance = (left**2 @ (W @ C) ** 2 + (left @ W) ** 2 @ C**2) @ Vt.T**2
    variance += left**2 @ W**2 @ (C @ Vt.T) ** 2  # (k, l)
    moved = np.zeros((d_in, d_in))
    moved[: len(sigma)] = unit * np.sqrt(variance)
    gaps = np.abs(values[:, None] ** 2 - values[None, :] ** 2)  # (k, l)
    reach = values[:, None] * moved + values[None, :] * moved.T
    first = np.minimum(np.where(gaps > reach, reach / np.where(gaps > 0.0, gaps, 1.0), 1.0), 1.0)
    np.fill_diagonal(first, 0.0)
    return np.asarray(first + first @ first)  # second order: what is turned is turned on
