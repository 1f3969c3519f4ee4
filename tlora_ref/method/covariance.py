"""The input second moment C of a module."""

from __future__ import annotations

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import ShapeError

#: Columns of X handled at once: X^T X is formed in blocks of its upper triangle.
BLOCK = 512


def second_moment(X: Array, *, centre: bool = False) -> Array:
    """Alg. 1, line 9, one sample's term: X^T X, uncentred, not divided by the number of tokens.

    Blocks of the upper triangle are computed and mirrored: the result is symmetric bit for bit, and a plain product
    of two different matrices is several times faster than what BLAS does for X^T X as a whole.

    Parameters
    ----------
    X : (T, d_in), one row a token
    centre : first subtract the sample's own token mean (the released code does; the paper does not, although App. A
        calls C a covariance)

    Returns
    -------
    (d_in, d_in), in the dtype of X
    """
    if X.ndim != 2 or X.shape[0] == 0:
        raise ShapeError(f"second_moment: X has shape {X.shape}, expected (tokens, d_in) with at least one token")
    xp = array_module(X)
    if centre:
        X = X - X.mean(axis=0, keepdims=True)
    d_in = X.shape[1]
    C = xp.empty((d_in, d_in), dtype=X.dtype)
    for start in range(0, d_in, BLOCK):
        stop = min(d_in, start + BLOCK)
        left = xp.ascontiguousarray(X[:, start:stop].T)  # (columns, T)
        band = left @ X[:, start:]  # (columns, d_in - start)
        corner = band[:, : stop - start]
        band[:, : stop - start] = (corner + corner.T) * 0.5
        C[start:stop, start:] = band
        C[stop:, start:stop] = band[:, stop - start :].T
    return C
