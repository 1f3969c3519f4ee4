"""Appendices A and B: which A is best, and how far two subspaces are apart.

The ideal weight update is D (d_out, d_in); W_0 stands in for it. C is damped to C + eps I here and only here.
"""

from __future__ import annotations

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import NumericsError, ShapeError
from tlora_ref.method.singular import right_singular_vectors


def damped(C: Array, eps: float = 1e-6) -> Array:
    """C + eps I, (d_in, d_in): makes C invertible for the theory; the SVD of W C needs no damping."""
    return C + eps * array_module(C).eye(C.shape[0], dtype=C.dtype)


def symmetric_power(C: Array, power: float) -> Array:
    """C^power for a symmetric positive definite C, (d_in, d_in), by its eigenvalues."""
    xp = array_module(C)
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ShapeError(f"symmetric_power: C has shape {C.shape}, expected (d_in, d_in)")
    if not bool(xp.isfinite(C).all()):
        raise NumericsError("C holds a value that is not finite: check the weights and the calibration samples")
    values, vectors = xp.linalg.eigh(C)
    if not bool((values > 0).all()):
        raise NumericsError(
            f"C has the eigenvalue {float(values.min()):.3g}: a power of it needs all of them positive. Damp it more"
        )
    return (vectors * values**power) @ vectors.T


def least_squares_loss(A: Array, C: Array, D: Array, noise: float = 0.0) -> float:
    """Eq. 8: the loss that remains when B is solved for by least squares, noise + Tr(D C D^T) - J(A)."""
    return noise + float((D @ C * D).sum()) - objective(A, C, D)


def objective(A: Array, C: Array, D: Array) -> float:
    """Eq. 9: J(A) = Tr[ A C D^T D C A^T (A C A^T)^-1 ], to be maximised.

    A (r, d_in) of full row rank, C (d_in, d_in) positive definite, D (d_out, d_in). It depends on the row space of A
    alone. NumericsError if A's rows are not independent.
    """
    xp = array_module(A, C, D)
    CAt = C @ A.T  # (d_in, r)
    DCAt = D @ CAt  # (d_out, r)
    return float(xp.trace(_solve(A @ CAt, DCAt.T @ DCAt)))


def projector(A: Array, C: Array) -> Array:
    """Eq. 10: P = A~^T (A~ A~^T)^-1 A~ with A~ = A C^1/2, the projector on the row space of A~; (d_in, d_in).

    J(A) = Tr[M_D P]: a trace against a projector of rank r.
    """
    At = A @ symmetric_power(C, 0.5)
    return At.T @ _solve(At @ At.T, At)


def _solve(gram: Array, right: Array) -> Array:
    """gram^-1 right for the (r, r) Gram matrix A C A^T."""
    xp = array_module(gram, right)
    values = xp.linalg.eigvalsh(gram)
    if not bool(values[0] > len(values) * float(xp.finfo(gram.dtype).eps) * values[-1]):
        raise NumericsError(
            "A C A^T is singular: A needs independent rows (full row rank) and C positive eigenvalues (see `damped`)"
        )
    return xp.linalg.solve(gram, right)


def von_neumann_bound(M: Array, P: Array) -> float:
    """Eq. 11: Tr[M P] <= sum_i lambda_i(M) lambda_i(P), both spectra in descending order (symmetric M and P)."""
    xp = array_module(M, P)
    return float((xp.linalg.eigvalsh(M) * xp.linalg.eigvalsh(P)).sum())


def update_moment(D: Array, C: Array) -> Array:
    """Eq. 12: M_D = (D C^1/2)^T (D C^1/2), (d_in, d_in)."""
    DC = D @ symmetric_power(C, 0.5)
    return DC.T @ DC


def objective_bound(C: Array, D: Array, r: int) -> float:
    """Eq. 12: max over A of J(A) = the sum of the r largest eigenvalues of M_D."""
    xp = array_module(C, D)
    return float(xp.linalg.eigvalsh(update_moment(D, C))[::-1][:r].sum())


def optimal_directions(D: Array, C: Array, r: int) -> Array:
    """Eq. 13 (and Eq. 3, 16 with W_0 for D): V_r^T, the top r right singular vectors of D C^1/2; (r, d_in)."""
    return right_singular_vectors(D @ symmetric_power(C, 0.5), r)[1]


def optimal_projector(V_rt: Array) -> Array:
    """Eq. 13: the projector V_r V_r^T that reaches the bound, from V_r^T (r, d_in); (d_in, d_in)."""
    return V_rt.T @ V_rt


def optimal_A(V_rt: Array, C: Array) -> Array:
    """Eq. 14: A = V_r^T C^-1/2, (r, d_in)."""
    return V_rt @ symmetric_power(C, -0.5)


def subspace_similarity(U1: Array, U2: Array) -> float:
    """Eq. 15, 17: phi = ||U1^T U2||_F^2 / r, in [0, 1], for (d, r) matrices of orthonormal columns."""
    if U1.ndim != 2 or U1.shape != U2.shape or U1.shape[1] == 0:
        raise ShapeError(f"phi compares subspaces of one dimension, at least 1: got {U1.shape} and {U2.shape}")
    overlap = U1.T @ U2
    return float((overlap * overlap).sum()) / U1.shape[1]


def largest_sine(A: Array, A_other: Array) -> float:
    """Sine of the largest angle between the row spaces of A and A_other, both of orthonormal rows.

    ||(I - A^T A) A_other^T||_2: first order in the angle, where phi is only second order and blind to small ones.
    With fewer rows in A_other it is 0 when A's row space contains the other's.
    """
    if A.ndim != 2 or A_other.ndim != 2 or A.shape[1] != A_other.shape[1] or 0 in (len(A), len(A_other)):
        raise ShapeError(f"angles between row spaces need (r, d_in) matrices with rows: got {A.shape}, {A_other.shape}")
    xp = array_module(A, A_other)
    return float(xp.linalg.norm(A_other.T - A.T @ (A @ A_other.T), ord=2))
