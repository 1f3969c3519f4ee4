"""Lines 8 and 9: sensitivity and second moment of one sample."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref import backend
from tlora_ref.errors import ShapeError
from tlora_ref.method import covariance
from tlora_ref.method.covariance import add_second_moment, centred, mirror, second_moment
from tlora_ref.method.sensitivity import sample_sensitivity


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_second_moment_entry_by_entry(seed: int, tokens: int, d_in: int) -> None:
    X = np.random.default_rng(seed).standard_normal((tokens, d_in)) + 2.0
    C, centred = second_moment(X), second_moment(X, centre=True)
    for i, j in product(range(d_in), repeat=2):
        assert C[i, j] == pytest.approx(sum(X[t, i] * X[t, j] for t in range(tokens)), rel=1e-12, abs=1e-12)
    spread = tokens * np.atleast_2d(np.cov(X, rowvar=False, bias=True))
    np.testing.assert_allclose(centred, spread, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("d_in", [6, 7, 8, 9, 13])
def test_blocks_change_nothing_and_the_result_is_symmetric(d_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X = np.random.default_rng(d_in).standard_normal((5, d_in))
    monkeypatch.setattr(covariance, "BLOCK", 4)
    C = second_moment(X)
    np.testing.assert_allclose(C, np.einsum("ti,tj->ij", X, X), atol=1e-13)
    assert (C == C.T).all()


def test_samples_add_up_in_place_and_one_mirror_completes_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covariance, "BLOCK", 3)
    samples = [np.random.default_rng(n).standard_normal((n + 1, 7)) + 1 for n in range(5)]
    for centre in (False, True):
        total = np.zeros((7, 7))
        for X in samples[:3]:
            add_second_moment(total, centred(X) if centre else X)
        add_second_moment(total, np.concatenate([centred(X) if centre else X for X in samples[3:]]))
        mirror(total)
        expected = sum(second_moment(X, centre=centre) for X in samples)
        np.testing.assert_allclose(total, expected, rtol=1e-13, atol=1e-13)
        assert (total == total.T).all()


def test_second_moment_leaves_its_input_and_its_dtype() -> None:
    X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    kept = X.copy()
    assert second_moment(X, centre=True).dtype == second_moment(X).dtype == np.float32
    assert np.array_equal(X, kept)


def test_sensitivity_is_the_mean_absolute_product() -> None:
    W, dW = np.array([[1.0, -2.0, 0.5], [0.0, 4.0, -1.0]]), np.array([[3.0, 1.0, -2.0], [9.0, -0.5, -5.0]])
    assert sample_sensitivity(W, dW) == (3 + 2 + 1 + 0 + 2 + 5) / 6


def test_sensitivity_in_blocks_of_rows_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    W, dW = np.random.default_rng(0).standard_normal((2, 11, 5))
    expected = sum(abs(w * d) for w, d in zip(W.flat, dW.flat, strict=True)) / 55
    for numbers in (1, 7, 15, 1000):
        monkeypatch.setattr(backend, "CACHED", numbers)
        assert float(sample_sensitivity(W, dW)) == pytest.approx(expected, rel=1e-14)


def test_sensitivity_of_float32_is_summed_in_float64() -> None:
    W = np.full((600, 600), 0.1, dtype=np.float32)
    exact = float(W[0, 0] * W[0, 0])
    assert sample_sensitivity(W, W).dtype == np.float64
    assert float(sample_sensitivity(W, W)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_second_moment_refuses_what_is_not_one_row_a_token(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(tokens, d_in\)"):
        second_moment(np.ones(shape))


def test_sensitivity_refuses_a_gradient_of_another_shape() -> None:
    with pytest.raises(ShapeError, match="must agree"):
        sample_sensitivity(np.ones((2, 3)), np.ones((3, 2)))
