"""Eq. 1 and Eq. 2: the adapted module, its gradient, and where its updates lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.low_rank import adapted_output, gradient_B, merged_weight, sgd_weight_update

seeds = st.integers(0, 2**32 - 1)


def module(seed: int, dtype: str = "float64") -> tuple[np.ndarray, ...]:
    """x (2, 3, d_in), W (d_out, d_in), A (r, d_in), B (d_out, r)."""
    rng = np.random.default_rng(seed)
    d_out, d_in, r = rng.integers(1, 7, 3)
    shapes = [(2, 3, d_in), (d_out, d_in), (r, d_in), (d_out, r)]
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


@given(seeds, st.floats(0, 20))
def test_output_entry_by_entry_and_through_the_merged_weight(seed: int, s: float) -> None:
    x, W, A, B = module(seed)
    y = adapted_output(x, W, A, B, s)
    low_rank = np.einsum("abi,ri,or->abo", x, A, B)
    np.testing.assert_allclose(y, np.einsum("abi,oi->abo", x, W) + s * low_rank, atol=1e-11)
    np.testing.assert_allclose(np.einsum("abi,oi->abo", x, merged_weight(W, A, B, s)), y, atol=1e-11)


@given(seeds)
def test_zero_B_changes_nothing(seed: int) -> None:
    _, W, A, B = module(seed)
    assert np.array_equal(merged_weight(W, A, 0 * B, 3.0), W)


@given(seeds, st.floats(0.1, 5))
def test_gradient_by_finite_differences(seed: int, s: float) -> None:
    x, W, A, B = module(seed)

    def loss(B: np.ndarray) -> float:
        return float(np.sin(adapted_output(x, W, A, B, s)).sum())

    G = np.einsum("abo,abi->oi", np.cos(adapted_output(x, W, A, B, s)), x)  # dL/dW' of this loss
    numeric = np.empty_like(B)
    for index in np.ndindex(*B.shape):
        step = np.zeros_like(B)
        step[index] = 1e-5
        numeric[index] = (loss(B + step) - loss(B - step)) / 2e-5
    np.testing.assert_allclose(gradient_B(G, A, s), numeric, atol=1e-5 * max(1.0, np.abs(numeric).max()))


@given(seeds, st.floats(0.1, 5), st.floats(1e-3, 1))
def test_one_sgd_step_moves_the_merged_weight_as_equation_2_corrected_says(seed: int, s: float, lr: float) -> None:
    _, W, A, B = module(seed)
    G = np.random.default_rng(seed + 1).standard_normal(W.shape)
    moved = merged_weight(W, A, B - lr * gradient_B(G, A, s), s) - merged_weight(W, A, B, s)
    np.testing.assert_allclose(sgd_weight_update(G, A, s, lr), moved, atol=1e-10 * max(1.0, np.abs(moved).max()))


def test_the_erratum_both_factors_of_s() -> None:
    one = np.ones((1, 1))
    assert gradient_B(5 * one, 2 * one, 3.0) == 3 * 5 * 2  # the paper prints 10
    assert sgd_weight_update(5 * one, 2 * one, 3.0, 0.5) == -0.5 * 9 * 5 * 4  # the paper prints -30


@given(seeds)
def test_every_update_lies_in_the_row_space_of_A_under_sgd_and_under_adamw(seed: int) -> None:
    _, W, A, B = module(seed)
    rng = np.random.default_rng(seed + 1)
    outside = np.eye(W.shape[1]) - np.linalg.pinv(A) @ A  # onto what A maps to zero
    exp_avg, exp_avg_sq, new = 0 * B, 0 * B, B
    for step in range(1, 4):
        G = rng.standard_normal(W.shape)
        np.testing.assert_allclose(sgd_weight_update(G, A, 2.0, 0.1) @ outside, 0, atol=1e-10)
        grad = gradient_B(G, A, 2.0)
        new, exp_avg, exp_avg_sq = adamw_step(new, grad, exp_avg, exp_avg_sq, step=step, lr=0.1)
        update = merged_weight(W, A, new, 2.0) - W
        assert np.abs(update).max() > 0
        np.testing.assert_allclose(update @ outside, 0, atol=1e-10 * max(1.0, np.abs(update).max()))


def test_float32_stays_float32() -> None:
    x, W, A, B = module(0, "float32")
    results = adapted_output(x, W, A, B, 2.0), merged_weight(W, A, B, 2.0), gradient_B(W, A, 2.0)
    assert {array.dtype for array in (*results, sgd_weight_update(W, A, 2.0, 0.1))} == {np.dtype("float32")}
