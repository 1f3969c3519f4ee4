"""The input second moment C of a module."""

from __future__ import annotations

from tlora_ref.backend import Array
from tlora_ref.errors import ShapeError


def second_moment(X: Array, *, centre: bool = False) -> Array:
    """Alg. 1, line 9, one sample's term: X^T X, uncentred, not divided by the number of tokens.

    C is the mean of this over samples. Calibration forms the same in blocks (`tlora_ref.calibration.blocked`).

    Parameters
    ----------
    X : (T, d_in), one row a token
    centre : first subtract the sample's own token mean (the released code does; the paper does not, although App. A
        calls C a covariance)

    Returns
    -------
    (d_in, d_in), in the dtype of X. ShapeError for another shape of X, or no token.
    """
    if X.ndim != 2 or X.shape[0] == 0:
        raise ShapeError(f"second_moment: X has shape {X.shape}, expected (tokens, d_in) with at least one token")
    if centre:
        X = centred(X)
    return X.T @ X


def centred(X: Array) -> Array:
    """X without its mean row, (T, d_in)."""
    return X - X.mean(axis=0, keepdims=True)
