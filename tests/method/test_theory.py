"""Appendices A and B: least squares, bounds, optima and angles, each by a route that the code does not take."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.errors import NumericsError, ShapeError
from tlora_ref.method import theory
from tlora_ref.method.initialization import theoretical


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X (T, d_in), C = X^T X / T, an ideal update D (d_out, d_in), and some A (r, d_in); C and A well conditioned."""
    rng = np.random.default_rng(seed)
    d_in, d_out = rng.integers(3, 9, 2)
    r = rng.integers(1, min(d_in, d_out) + 1)
    turn = np.linalg.qr(rng.standard_normal((d_in, d_in)))[0]
    X = rng.standard_normal((40, d_in)) * rng.uniform(0.5, 2.0, d_in) @ turn + rng.standard_normal(d_in)
    A = rng.uniform(0.5, 2.0, r)[:, None] * np.linalg.qr(rng.standard_normal((d_in, r)))[0].T
    return X, X.T @ X / len(X), rng.standard_normal((d_out, d_in)), A


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_equation_8_is_the_residual_of_a_least_squares_fit(seed: int) -> None:
    X, C, D, A = problem(seed)
    rng = np.random.default_rng(seed + 1)
    E = rng.standard_normal((len(X), len(D)))
    E -= X @ np.linalg.lstsq(X, E, rcond=None)[0]  # noise that no linear map of X explains
    Y = X @ D.T + E
    B_transposed = np.linalg.lstsq(X @ A.T, Y, rcond=None)[0]
    residual = ((Y - X @ A.T @ B_transposed) ** 2).sum() / len(X)
    noise = (E**2).sum() / len(X)
    assert theory.least_squares_loss(A, C, D, noise) == pytest.approx(residual, rel=1e-8, abs=1e-8)


@given(seeds)
def test_objective_depends_on_the_row_space_only(seed: int) -> None:
    _, C, D, A = problem(seed)
    mix = np.random.default_rng(seed + 1).standard_normal((len(A), len(A))) + 3 * np.eye(len(A))
    assert theory.objective(mix @ A, C, D) == pytest.approx(theory.objective(A, C, D), rel=1e-6)


@given(seeds)
def test_bound_holds_and_the_optimum_reaches_it(seed: int) -> None:
    _, C, D, A = problem(seed)
    r = len(A)
    # D L has the singular values of D C^1/2 for any C = L L^T
    strengths = np.linalg.svd(D @ np.linalg.cholesky(C), compute_uv=False)
    bound = theory.objective_bound(C, D, r)
    assert bound == pytest.approx((strengths[:r] ** 2).sum(), rel=1e-9)
    assert theory.objective(A, C, D) <= bound * (1 + 1e-9)
    best = theory.optimal_A(theory.optimal_directions(D, C, r), C)
    assert theory.objective(best, C, D) == pytest.approx(bound, rel=1e-8)
    nudged = best + 1e-2 * np.abs(best).max() * np.random.default_rng(seed).standard_normal(best.shape)
    assert theory.objective(nudged, C, D) <= bound * (1 + 1e-9)


@given(seeds)
def test_projector_carries_the_objective_as_a_trace(seed: int) -> None:
    _, C, D, A = problem(seed)
    P, M = theory.projector(A, C), theory.update_moment(D, C)
    root = np.real(scipy.linalg.sqrtm(C))
    np.testing.assert_allclose(M, root @ D.T @ D @ root, atol=1e-7 * np.abs(M).max())
    np.testing.assert_allclose(P, P.T, atol=1e-7)
    np.testing.assert_allclose(P @ P, P, atol=1e-7)
    np.testing.assert_allclose((A @ root) @ P, A @ root, atol=1e-6 * np.abs(A @ root).max())
    assert np.trace(P) == pytest.approx(len(A), rel=1e-9)
    J = theory.objective(A, C, D)
    assert np.trace(M @ P) == pytest.approx(J, rel=1e-7)
    bound = theory.von_neumann_bound(M, P)
    assert bound * (1 + 1e-9) >= J
    assert bound == pytest.approx(theory.objective_bound(C, D, len(A)), rel=1e-7)


@given(seeds)
def test_equation_13_is_the_projector_of_the_optimum(seed: int) -> None:
    _, C, D, A = problem(seed)
    V_rt = theory.optimal_directions(D, C, len(A))
    np.testing.assert_allclose(V_rt @ V_rt.T, np.eye(len(A)), atol=1e-12)
    P = theory.optimal_projector(V_rt)
    assert np.trace(theory.update_moment(D, C) @ P) == pytest.approx(theory.objective_bound(C, D, len(A)), rel=1e-9)
    np.testing.assert_allclose(theory.projector(theory.optimal_A(V_rt, C), C), P, atol=1e-6)


@given(seeds)
def test_theoretical_A_equals_the_formula_without_an_inverse_root(seed: int) -> None:
    """A = Sigma_r^-1 U_r^T W_0, row by row up to sign; U and Sigma from the eigenvectors of W C W^T."""
    _, C, W, A = problem(seed)
    r, eps = len(A), 1e-3
    values_all, U = np.linalg.eigh(W @ (C + eps * np.eye(len(C))) @ W.T)
    values_all, U = values_all[::-1], U[:, ::-1][:, :r]
    values = values_all[:r]
    expected = U.T @ W / np.sqrt(values)[:, None]
    got = theoretical(W, C, r, eps)
    assert got.shape == expected.shape
    signs = np.sign((got * expected).sum(axis=1, keepdims=True))
    gap = -np.diff([*values, 0.0] if r == len(values_all) else values_all[: r + 1]).max() / values[0]
    np.testing.assert_allclose(got, signs * expected, atol=1e-12 / gap * np.abs(expected).max())


def test_damping_makes_a_singular_moment_usable() -> None:
    x = np.array([[1.0, 2.0, 2.0]])
    with pytest.raises(NumericsError, match="Damp it more"):
        theory.symmetric_power(x.T @ x - 1e-9 * np.eye(3), -0.5)
    values = np.linalg.eigvalsh(theory.damped(x.T @ x, 0.25))
    assert values == pytest.approx([0.25, 0.25, 9.25])
    assert np.diag(theory.damped(np.zeros((2, 2)))).tolist() == [1e-6, 1e-6]
    assert theoretical(np.eye(3), x.T @ x, 2).shape == (2, 3)


def test_powers_of_a_symmetric_matrix() -> None:
    turn = scipy.linalg.expm(np.array([[0, 1.0, 2], [-1, 0, 0.5], [-2, -0.5, 0]]))  # orthogonal
    C = turn @ np.diag([4.0, 9.0, 0.25]) @ turn.T
    np.testing.assert_allclose(theory.symmetric_power(C, 0.5), turn @ np.diag([2.0, 3.0, 0.5]) @ turn.T, atol=1e-14)
    np.testing.assert_allclose(theory.symmetric_power(C, -0.5) @ turn, turn / [2.0, 3.0, 0.5], atol=1e-14)


@given(st.floats(1e-6, math.pi / 2))
def test_similarity_and_sine_of_a_known_angle(angle: float) -> None:
    e = np.eye(4)
    A, turned = e[[0, 1]], np.stack([e[1], math.cos(angle) * e[0] + math.sin(angle) * e[3]])
    assert theory.subspace_similarity(A.T, turned.T) == pytest.approx((1 + math.cos(angle) ** 2) / 2, rel=1e-14)
    assert theory.largest_sine(A, turned) == pytest.approx(math.sin(angle), rel=1e-12)


@given(seeds)
def test_similarity_is_a_fraction_symmetric_and_blind_to_the_basis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    U1, U2 = (np.linalg.qr(rng.standard_normal((7, 3)))[0] for _ in range(2))
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    phi = theory.subspace_similarity(U1, U2)
    assert 0 <= phi <= 1
    assert theory.subspace_similarity(U2 @ turn, U1) == pytest.approx(phi, rel=1e-12)
    angles = scipy.linalg.subspace_angles(U1, U2)
    assert phi == pytest.approx((np.cos(angles) ** 2).mean(), rel=1e-10)
    assert theory.largest_sine(U1.T, (U2 @ turn).T) == pytest.approx(np.sin(angles.max()), rel=1e-10)


def test_a_row_space_that_contains_the_other_is_at_angle_zero() -> None:
    assert theory.largest_sine(np.eye(5)[:3], np.eye(5)[[1]]) == 0.0


# ---- errors ----


def test_dependent_rows_have_no_objective() -> None:
    A = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    for quantity in (lambda: theory.objective(A, np.eye(3), np.eye(3)), lambda: theory.projector(A, np.eye(3))):
        with pytest.raises(NumericsError, match="independent rows"):
            quantity()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_rows_are_dependent_by_their_directions_not_by_their_size(scale: float) -> None:
    """Two rows along axes, the second 1e-7 or 1e-9 of the first: A A^T is diagonal, 1e-14 or 1e-18 of its largest."""
    near, far = (scale * np.array([[1.0, 0.0, 0.0], [0.0, least, 0.0]]) for least in (1e-7, 1e-9))
    assert theory.objective(near, np.eye(3), np.diag([3.0, 4.0, 5.0])) == pytest.approx(9 + 16)
    with pytest.raises(NumericsError, match="independent rows"):
        theory.objective(far, np.eye(3), np.eye(3))


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (4,), (2, 2, 2)])
def test_powers_refuse_what_is_not_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(d_in, d_in\)"):
        theory.symmetric_power(np.ones(shape), 0.5)


def test_powers_refuse_what_is_singular_or_not_finite() -> None:
    with pytest.raises(NumericsError, match="Damp it more"):
        theory.symmetric_power(np.diag([1.0, 0.0]), -0.5)
    with pytest.raises(NumericsError, match="not finite"):
        theory.symmetric_power(np.array([[1.0, np.nan], [np.nan, 1.0]]), 0.5)


@pytest.mark.parametrize(
    ("first", "second"), [((4, 2), (4, 3)), ((4, 3), (4, 2)), ((4, 0), (4, 0)), ((4,), (4,)), ((4, 2, 2), (4, 2, 2))]
)
def test_similarity_refuses_other_shapes(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="one dimension"):
        theory.subspace_similarity(np.ones(first), np.ones(second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 4), (2, 5)),
        ((2, 5), (2, 4)),
        ((0, 4), (2, 4)),
        ((2, 4), (4,)),
        ((4,), (2, 4)),
        ((2, 4, 4), (2, 4)),
        ((2, 4), (2, 4, 4)),
    ],
)
def test_sine_refuses_other_shapes(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="row spaces"):
        theory.largest_sine(np.ones(first), np.ones(second))
