"""Right singular vectors: what Eq. 4 and Eq. 13 both take from their matrix."""

from __future__ import annotations

import numpy as np

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import NumericsError, reason


def right_singular_vectors(M: Array, r: int, svd_dtype: str = "float64") -> tuple[Array, Array]:
    """Alg. 1, line 16: the SVD M = U Sigma V^T, by the first r rows of V^T.

    U is not wanted, so a matrix that is not square is first reduced to a square one (Golub & Van Loan, section 8.6.3):
    M = Q R has R's singular values and right vectors; of a wide M, its transpose is reduced.

    Parameters
    ----------
    M : (d_out, d_in);  r : at most d_in
    svd_dtype : "float64", or "float32" for what the released code does

    Returns
    -------
    sigma : (min(d_out, d_in),), descending
    Vt : (r, d_in); rows beyond the rank of M span its null space in no determined order. The sign of every row is
        arbitrary: a caller must not lean on it.
    """
    xp = array_module(M)
    M = M.astype(svd_dtype)
    if not bool(xp.isfinite(M).all()):
        raise NumericsError(
            f"the {M.shape} matrix to decompose (W C, or W for W-SVD) holds a value that is not finite: check the "
            "weights and the calibration samples"
        )
    d_out, d_in = M.shape
    try:
        if r > d_out:  # rows of the null space cost memory (d_in, d_in): only where r asks for some
            _, sigma, Vt = xp.linalg.svd(M, full_matrices=True)
        elif d_out >= d_in:
            _, sigma, Vt = xp.linalg.svd(xp.linalg.qr(M, mode="r") if d_out > d_in else M)
        else:
            Q, R = xp.linalg.qr(M.T)  # (d_in, d_out), (d_out, d_out)
            _, sigma, Vt = xp.linalg.svd(R.T)
            Vt = Vt[:r] @ Q.T
    except np.linalg.LinAlgError as error:
        raise NumericsError(f"the SVD of a {M.shape} matrix did not converge ({reason(error)})") from error
    return sigma, Vt[:r]
