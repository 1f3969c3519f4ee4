"""The sensitivity S of a module."""

from __future__ import annotations

from tlora_ref.backend import Array, array_module, cache_blocks
from tlora_ref.errors import ShapeError


def sample_sensitivity(W: Array, dW: Array) -> Array:
    """Eq. 5 (Alg. 1, line 8), one sample's term: the mean over all entries of |W * dLoss_n/dW|.

    S is the mean of this over samples. It is not |W * mean gradient|: gradients of opposite sign must not cancel.

    Parameters
    ----------
    W, dW : (d_out, d_in)

    Returns
    -------
    scalar array, accumulated in float64
    """
    if W.shape != dW.shape:
        raise ShapeError(f"sample_sensitivity: W is {W.shape}, its gradient {dW.shape}: they must agree")
    xp = array_module(W, dW)
    blocks = (xp.abs(W[rows] * dW[rows]).sum(dtype="float64") for rows in cache_blocks(W))
    return sum(blocks, xp.zeros(())) / W.size
