"""The sensitivity S of a module."""

from __future__ import annotations

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import ShapeError


def sample_sensitivity(W: Array, dW: Array) -> Array:
    """Eq. 5 (Alg. 1, line 8), one sample's term: the mean over all entries of |W * dLoss_n/dW|.

    S is the mean of this over samples. It is not |W * mean gradient|: gradients of opposite sign must not cancel.
    Calibration forms the same in blocks of rows (`tlora_ref.calibration.blocked`).

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
    return xp.mean(abs(W * dW), dtype="float64")
