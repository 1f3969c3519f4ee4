"""Lines 8 and 9: sensitivity and second moment of one sample."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.errors import ShapeError
from tlora_ref.method.covariance import second_moment
from tlora_ref.method.sensitivity import sample_sensitivity


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_second_moment_entry_by_entry(seed: int, tokens: int, d_in: int) -> None:
    X = np.random.default_rng(seed).standard_normal((tokens, d_in)) + 2.0
    C, centred = second_moment(X), second_moment(X, centre=True)
    for i, j in product(range(d_in), repeat=2):
        assert C[i, j] == pytest.approx(sum(X[t, i] * X[t, j] for t in range(tokens)), rel=1e-12, abs=1e-12)
    spread = tokens * np.atleast_2d(np.cov(X.T, bias=True))
    np.testing.assert_allclose(centred, spread, rtol=1e-9, atol=1e-10)


def test_second_moment_leaves_its_input_and_its_dtype() -> None:
    X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    kept = X.copy()
    assert second_moment(X, centre=True).dtype == second_moment(X).dtype == np.float32
    assert np.array_equal(X, kept)


def test_sensitivity_is_the_mean_absolute_product() -> None:
    W, dW = np.array([[1.0, -2.0, 0.5], [0.0, 4.0, -1.0]]), np.array([[3.0, 1.0, -2.0], [9.0, -0.5, -5.0]])
    assert sample_sensitivity(W, dW) == (3 + 2 + 1 + 0 + 2 + 5) / 6


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
    for shape, other in [((2, 3), (3, 2)), ((3, 2), (2, 3)), ((2, 3), (1, 3)), ((2, 3), (2, 1))]:  # the last two spread
        with pytest.raises(ShapeError, match="must agree"):
            sample_sensitivity(np.ones(shape), np.ones(other))
