"""Lines 8 and 9 of Algorithm 1 once more, at the speed of the hardware: the formulas of `method`, block by block.

`method.covariance.second_moment` and `method.sensitivity.sample_sensitivity` say what is computed;
`tests/calibration/test_blocked.py` holds these equal to them.
"""

from __future__ import annotations

from tlora_ref.backend import Array, array_module, cache_blocks

#: Columns of X handled at once: X^T X is formed in blocks of its upper triangle.
BLOCK = 192


def blocked_sensitivity(W: Array, dW: Array) -> Array:
    """Eq. 5, one sample's term: mean |W * dLoss_n/dW|, a scalar array in float64. W, dW (d_out, d_in).

    By rows that fit a CPU's cache together with their product: a temporary of the whole matrix would cost three times
    the time.
    """
    xp = array_module(W, dW)
    blocks = (xp.abs(W[rows] * dW[rows]).sum(dtype="float64") for rows in cache_blocks(W))
    return sum(blocks, xp.zeros(())) / W.size


def add_second_moment(total: Array, X: Array) -> None:
    """Line 9: add X^T X to `total` in place, in blocks of its upper triangle alone: `mirror` does the rest, once.

    A plain product of two different matrices is several times faster than what BLAS does for X^T X as a whole, and
    of many short samples most of the time would go into writing the lower triangle again and again.

    X (T, d_in), of one sample or of several one below the other; total (d_in, d_in).
    """
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
