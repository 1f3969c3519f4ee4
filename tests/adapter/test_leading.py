"""The fast form of line 16 against matrices whose singular vectors are known, because they were made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tlora_ref as tr
from tests.method.stand_ins import statistics, weights
from tlora_ref.adapter import leading as fast
from tlora_ref.errors import NumericsError
from tlora_ref.method.singular import right_singular_vectors

EPS = float(np.finfo(np.float64).eps)
SHAPES = ((60, 60), (90, 52), (52, 90))
#: Kinds of spectra: (name, the values for i = 0, 1, ...)
SPECTRA = {
    "flat": lambda i: 2.0 - i / len(i),
    "graded": lambda i: np.exp(-i / 3.0),
    "steep": lambda i: np.exp(-2.0 * i),
    "hyperbolic": lambda i: 1.0 / (1.0 + i),
    "one outlier": lambda i: np.where(i == 0, 1e5, np.exp(-i / 20.0)),
    "outliers beyond the Gram matrix": lambda i: np.where(i < 3, 1e9, np.exp(-i / 20.0)),
    "pairs": lambda i: np.exp(-(i // 2) / 5.0),
    "cluster at the cut": lambda i: np.where(i < 4, 3.0, np.where(i < 30, 1.0, 0.1)),
    "nearly equal": lambda i: 1.0 - 1e-10 * i,
    "rank 5": lambda i: np.where(i < 5, 1.0 + i, 0.0),
    "rank 20": lambda i: np.where(i < 20, 1.0 / (1.0 + i), 0.0),
    "equal": lambda i: np.ones(len(i)),
}


def made(seed: int, shape: tuple[int, int], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M = U diag(sigma) V^T, with sigma descending and V^T (small, d_in)."""
    rng, small = np.random.default_rng(seed), min(shape)
    U, V = (np.linalg.qr(rng.standard_normal((d, small)))[0] for d in shape)
    sigma = np.sort(SPECTRA[kind](np.arange(small)))[::-1]
    return (U * sigma) @ V.T, sigma, V.T


@given(st.integers(0, 2**32 - 1), st.sampled_from(SHAPES), st.sampled_from(sorted(SPECTRA)), st.integers(1, 40))
@settings(max_examples=150)
def test_values_and_vectors_are_those_that_the_matrix_was_made_of(
    seed: int, shape: tuple[int, int], kind: str, r: int
) -> None:
    M, sigma, Vt = made(seed, shape, kind)
    found, A = fast.leading(M, r)
    assert A.shape == (r, shape[1]) and found.shape == (r,)
    np.testing.assert_allclose(A @ A.T, np.eye(r), atol=1e-13)
    off = 100.0 * EPS * sigma[0]  # backward error of an SVD of this size
    np.testing.assert_allclose(found, sigma[:r], atol=off)
    np.testing.assert_allclose(np.linalg.norm(M @ A.T, axis=0), sigma[:r], atol=off)
    for p in range(1, r + 1):  # Wedin: the space of the first p turns by no more than the error over the gap
        gap = sigma[p - 1] - sigma[p]
        if gap > 10.0 * off:
            turned = np.linalg.norm(A[:p].T - Vt[:p].T @ (Vt[:p] @ A[:p].T), 2)
            assert turned <= 2.0 * off / gap, (p, turned, gap)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_svd_is_taken_where_and_only_where_the_gram_matrix_does_not_tell(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(fast, "right_singular_vectors", lambda *of: asked.append(of) or right_singular_vectors(*of))
    told = ["flat", "graded", "hyperbolic", "one outlier", "pairs", "rank 20"]
    for kind in told:
        fast.leading(made(1, shape, kind)[0], 8)
    assert not asked
    for kind in ("outliers beyond the Gram matrix", "cluster at the cut", "rank 5", "equal"):
        before = len(asked)
        fast.leading(made(1, shape, kind)[0], 8)
        assert len(asked) == before + 1, kind


@pytest.mark.parametrize("power", [-900, -300, 300, 900])
def test_any_magnitude_that_a_float_holds(power: int) -> None:
    M, _, _ = made(2, (60, 60), "graded")
    sigma, A = fast.leading(M, 8)
    scaled, A_scaled = fast.leading(M * 2.0**power, 8)
    assert np.array_equal(scaled, sigma * 2.0**power)
    assert np.array_equal(A_scaled, A)


def test_numbers_so_small_that_they_have_few_bits() -> None:
    M = np.ldexp(made(2, (60, 60), "graded")[0], -1060)
    sigma, A = fast.leading(M, 4)
    np.testing.assert_allclose(np.ldexp(sigma, 1060), np.linalg.svd(np.ldexp(M, 1060))[1][:4], rtol=1e-3)
    np.testing.assert_allclose(A @ A.T, np.eye(4), atol=1e-13)


def test_zeros_and_what_is_not_finite() -> None:
    sigma, A = fast.leading(np.zeros((60, 60)), 3)
    assert not sigma.any()
    np.testing.assert_allclose(A @ A.T, np.eye(3), atol=1e-14)
    for bad in (np.nan, np.inf):
        M = made(3, (60, 60), "flat")[0]
        M[7, 9] = bad
        with pytest.raises(NumericsError, match="not finite"):
            fast.leading(M, 3)


def test_an_adapter_has_the_same_A_with_and_without_the_whole_spectrum() -> None:
    rng = np.random.default_rng(4)
    W, X = rng.standard_normal((70, 60)), rng.standard_normal((200, 60)) * np.exp(-np.arange(60) / 9.0)
    plan = tr.allocate({"q": 1.0}, {"q": W.shape}, 6, 6)
    model, stats = weights(lambda module: W), statistics({"q": X.T @ X})
    lean, whole = (tr.initialize(model, stats, plan, spectrum=spectrum) for spectrum in (False, True))
    assert np.array_equal(lean.A["q"], whole.A["q"])
    true = np.sqrt(np.linalg.eigvalsh((W @ X.T @ X).T @ (W @ X.T @ X))[::-1])
    np.testing.assert_allclose(whole.sigma["q"], true, atol=1e-7 * true[0])
    np.testing.assert_allclose(lean.sigma["q"], whole.sigma["q"][:6], rtol=1e-13)
