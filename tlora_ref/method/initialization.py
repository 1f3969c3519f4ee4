"""A, the frozen projection: from the SVD of W C, and the initialisations that the paper compares it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from tlora_ref.backend import Array, array_module, asarray
from tlora_ref.errors import ShapeError
from tlora_ref.method.singular import right_singular_vectors
from tlora_ref.method.theory import damped, optimal_A, optimal_directions

#: From a matrix, a rank and a dtype: sigma and the first rows of V^T. `right_singular_vectors`, or its equal.
Decompose: TypeAlias = Callable[[Array, int, str], tuple[Array, Array]]


def _check(W: Array, C: Array | None, r: int) -> None:
    d_in = W.shape[-1]
    if W.ndim != 2 or (C is not None and C.shape != (d_in, d_in)):
        raise ShapeError(
            f"W is {W.shape} and C {None if C is None else C.shape}: expected (d_out, d_in) and (d_in, d_in)"
        )
    if not 0 <= r <= d_in:
        raise ShapeError(f"rank {r}: A has r rows of length {d_in}, so at most {d_in} can be orthonormal")


def wc_svd(
    W: Array, C: Array, r: int, svd_dtype: str = "float64", decompose: Decompose = right_singular_vectors
) -> tuple[Array, Array]:
    """Eq. 4 (Alg. 1, lines 16 and 17): A = the first r rows of V^T in the SVD of W C.

    The product and the SVD are in float64 whatever the model's dtype. With the released switch the product is in W's
    dtype and the SVD in float32. C matters only up to a positive factor.

    Parameters
    ----------
    W : (d_out, d_in);  C : (d_in, d_in);  r : at most d_in
    decompose : what makes the SVD; `adapter.leading` is faster and equal

    Returns
    -------
    A : (r, d_in), rows orthonormal, float64;  sigma : (min(d_out, d_in),), or what of it `decompose` gives
    """
    _check(W, C, r)
    product_dtype = "float64" if svd_dtype == "float64" else W.dtype
    sigma, Vt = decompose(W.astype(product_dtype) @ C.astype(product_dtype), r, svd_dtype)
    return Vt.astype("float64"), sigma


def w_svd(
    W: Array, r: int, svd_dtype: str = "float64", decompose: Decompose = right_singular_vectors
) -> tuple[Array, Array]:
    """Table 12, W-SVD: A = the first r right singular vectors of W_0 itself. Shapes as for `wc_svd`."""
    _check(W, None, r)
    sigma, Vt = decompose(W, r, svd_dtype)
    return Vt.astype("float64"), sigma


def theoretical(W: Array, C: Array, r: int, eps: float = 1e-6) -> Array:
    """App. B.1: A = V_r^T C^-1/2, V_r the top right singular vectors of W_0 C^1/2 (Eq. 3, 16), with C + eps I for C.

    The optimum of Eq. 9 for the proxy D = W_0. Unstable on real activations, which is why the method takes Eq. 4.
    Its rows are not orthonormal.

    Returns
    -------
    A : (r, d_in), float64
    """
    _check(W, C, r)
    C = damped(C.astype("float64"), eps)
    return optimal_A(optimal_directions(W.astype("float64"), C, r), C)


def random_uniform(d_in: int, r: int, rng: np.random.Generator, like: Array) -> Array:
    """Plain LoRA's A (Table 12, random): U(-1/sqrt(d_in), 1/sqrt(d_in)), PEFT's Kaiming-uniform with a = sqrt(5).

    Returns
    -------
    A : (r, d_in), float64, on the device of `like`
    """
    bound = d_in**-0.5
    return asarray(rng.uniform(-bound, bound, size=(r, d_in)), like=like)


def zero_B(d_out: int, r: int, like: Array) -> Array:
    """Alg. 1, line 17: B = 0, (d_out, r), in the dtype and on the device of `like`."""
    return array_module(like).zeros((d_out, r), dtype=like.dtype)
