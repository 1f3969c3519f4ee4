"""Line 16 of Algorithm 1 once more, at a fraction of the SVD's time: only the leading right vectors, by a Gram matrix.

`method.singular.right_singular_vectors` says what is computed; `tests/adapter/test_leading.py` holds this equal to it.

The eigenvectors of M^T M are M's right singular vectors, and an eigendecomposition costs a third of an SVD. But forming
M^T M rounds by eps sigma_1^2, so its eigenvectors may be off by eps sigma_1^2 / (sigma_i^2 - sigma_j^2) where the SVD's
are off by eps sigma_1 / (sigma_i - sigma_j). So they are taken as a first guess, and corrected by what M itself says
(Rayleigh-Ritz with M X, then Newton's step against all other eigenvectors) until they are as good as the SVD's:
M X = U S by construction, and ||M^T U - X S|| is rounding. What stays above that, or has no gap behind it that the Gram
matrix can tell from rounding, is left to the SVD.
"""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array, array_module
from tlora_ref.method.singular import right_singular_vectors

#: Below this many rows or columns an SVD is as fast.
LEAST = 48
#: Directions beyond the r that are wanted, so that M itself sorts a cluster of values at the cut.
BEYOND = 8
#: Rounding of a product or a decomposition, in sqrt(n) eps: what an SVD of this size leaves as well.
ROUNDING = 8.0
#: Newton's steps; two are enough wherever the Gram matrix tells the spaces apart.
STEPS = 3


def leading(M: Array, r: int, svd_dtype: str = "float64") -> tuple[Array, Array]:
    """The r largest singular values of M (d_out, d_in) and their right vectors: `right_singular_vectors`, but faster.

    Returns
    -------
    sigma : (min(r, d_out, d_in),), descending
    Vt : (r, d_in), as `right_singular_vectors` gives it

    Raises
    ------
    NumericsError
        if M is not finite.
    """
    found = None
    if svd_dtype == "float64" and min(M.shape) >= LEAST and r + BEYOND < min(M.shape):
        found = _by_gram_matrix(M.astype("float64"), r)
    sigma, Vt = found or right_singular_vectors(M, r, svd_dtype)
    return sigma[:r], Vt


def leading_with_spectrum(M: Array, r: int, svd_dtype: str = "float64") -> tuple[Array, Array]:
    """As `leading`, the same vectors to the bit; with all singular values of M, (min(d_out, d_in),)."""
    sigma, Vt = leading(M, r, svd_dtype)
    if len(sigma) < min(M.shape):
        xp = array_module(M)
        sigma = xp.linalg.svd(M.astype(svd_dtype), compute_uv=False)
    return sigma, Vt


def _by_gram_matrix(M: Array, r: int) -> tuple[Array, Array] | None:
    """The same of M in float64; None where the Gram matrix does not tell enough."""
    xp = array_module(M)
    top = float(xp.abs(M).max())
    if not 0.0 < top < math.inf:
        return None
    power = math.frexp(top)[1]
    scaled = xp.ldexp(M, -power)  # exact; squares can neither overflow nor vanish
    tall = M.shape[0] >= M.shape[1]
    try:
        found = _triplets(scaled if tall else scaled.T, r)
    except np.linalg.LinAlgError:  # the SVD may converge; if not, it has the message
        return None
    if found is None:
        return None
    left, sigma, right = found
    return xp.ldexp(sigma, power), xp.ascontiguousarray((right if tall else left).T)


def _triplets(M: Array, r: int) -> tuple[Array, Array, Array] | None:
    """U (n, r), sigma (r,), V (d, r) of a tall M (n, d); None where the Gram matrix does not tell enough."""
    xp = array_module(M)
    values, vectors = xp.linalg.eigh(M.T @ M)
    values, vectors = values[::-1], vectors[:, ::-1]
    k, rounding = r + BEYOND, ROUNDING * math.sqrt(len(M)) * float(np.finfo(np.float64).eps)
    if not float(values[r - 1] - values[k]) > rounding * float(values[0]):
        return None
    X, rest = vectors[:, :k], vectors[:, k:]  # (d, k), (d, d - k)
    for _ in range(STEPS + 1):
        Q, T = xp.linalg.qr(M @ X)  # (n, k), (k, k)
        inner, sigma, turn = xp.linalg.svd(T)
        U, X = Q @ inner, X @ turn.T  # M X = U S; U is (n, k)
        off = M.T @ U - X * sigma  # (d, k): zero for singular vectors
        if bool((xp.linalg.norm(off[:, :r], axis=0) <= rounding * sigma[0]).all()):
            return U[:, :r], sigma[:r], X[:, :r]
        # first-order perturbation: x_i lacks v_j^T (M^T M - sigma_i^2) x_i / (sigma_i^2 - lambda_j) of v_j
        lacks = (rest.T @ off[:, :r]) * sigma[:r] / (sigma[:r] ** 2 - values[k:, None])  # (d - k, r)
        X = xp.linalg.qr(xp.concatenate([X[:, :r] + rest @ lacks, X[:, r:]], axis=1))[0]
    return None
