"""The input second moment C of a module."""

from __future__ import annotations

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import ShapeError

#: Columns of X handled at once: X^T X is formed in blocks of its upper triangle.
BLOCK = 192


def second_moment(X: Array, *, centre: bool = False) -> Array:
    """Alg. 1, line 9, one sample's term: X^T X, uncentred, not divided by the number of tokens.

    Parameters
    ----------
    X : (T, d_in), one row a token
    centre : first subtract the sample's own token mean (the released code does; the paper does not, although App. A
        calls C a covariance)

    Returns
    -------
    (d_in, d_in), in the dtype of X, symmetric bit for bit
    """
    total = array_module(X).zeros((X.shape[-1], X.shape[-1]), dtype=X.dtype)
    add_second_moment(total, centred(X) if centre else X)
    mirror(total)
    return total


def centred(X: Array) -> Array:
    """X without its mean row, (T, d_in)."""
    return X - X.mean(axis=0, keepdims=True)


def add_second_moment(total: Array, X: Array) -> None:
    """Add X^T X to `total` in place, in blocks of its upper triangle alone: `mirror` does the rest, once.

    A plain product of two different matrices is several times faster than what BLAS does for X^T X as a whole, and
    of many short samples most of the time would go into writing the lower triangle again and again.

    X (T, d_in), of one sample or of several one below the other; total (d_in, d_in). ShapeError for another shape of X,
    or no token.
    """
    if X.ndim != 2 or X.shape[0] == 0:
        raise ShapeError(f"second_moment: X has shape {X.shape}, expected (tokens, d_in) with at least one token")
    xp = array_module(X)
    for columns, right in _bands(X.shape[1]):
        left = xp.ascontiguousarray(X[:, columns].T)  # a copy: NumPy hands X.T @ X of one memory to the slow routine
        total[columns, right] += left @ X[:, right]  # (columns, d_in - start)


def mirror(total: Array) -> None:
    """Make a sum of `add_second_moment` symmetric, in place: the upper triangle decides."""
    for columns, right in _bands(total.shape[0]):
        band = total[columns, right]
        corner = band[:, : band.shape[0]]
        corner[...] = (corner + corner.T) * 0.5  # a product's own halves differ in the last bits
        total[right, columns][band.shape[0] :] = band[:, band.shape[0] :].T


def _bands(d_in: int) -> list[tuple[slice, slice]]:
    """The blocks of the upper triangle: (rows, columns from the diagonal on)."""
    return [(slice(i, min(d_in, i + BLOCK)), slice(i, d_in)) for i in range(0, d_in, BLOCK)]
