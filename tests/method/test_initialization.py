"""Lines 16 and 17, and the initialisations that Table 12 compares."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import tlora_ref as tr
from tests.method.stand_ins import statistics, weights
from tlora_ref.errors import ConfigError, NumericsError, ShapeError
from tlora_ref.method import initialization as init
from tlora_ref.method import singular

seeds = st.integers(0, 2**32 - 1)


def module(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """W (d_out, d_in), C (d_in, d_in) of 30 tokens, r up to min(d_out, d_in)."""
    rng = np.random.default_rng(seed)
    d_out, d_in = rng.integers(2, 10, 2)
    X = rng.standard_normal((30, d_in)) * rng.uniform(0.5, 2.0, d_in) + 1.0
    return rng.standard_normal((d_out, d_in)), X.T @ X, int(rng.integers(1, min(d_out, d_in) + 1))


def captured(M: np.ndarray, A: np.ndarray) -> float:
    """Of the squared Frobenius norm of M, what its projection on A's row space keeps (A: any basis)."""
    basis = scipy.linalg.orth(A.T)
    return float(((M @ basis) ** 2).sum())


@given(seeds)
def test_rows_are_orthonormal_for_the_two_svds(seed: int) -> None:
    W, C, r = module(seed)
    for A in (init.wc_svd(W, C, r)[0], init.w_svd(W, r)[0]):
        assert A.shape == (r, W.shape[1])
        np.testing.assert_allclose(A @ A.T, np.eye(r), atol=1e-13)


@given(seeds)
def test_the_rows_capture_the_most_that_r_directions_can(seed: int) -> None:
    """Eckart, Young: the r largest eigenvalues of (W C)(W C)^T, and row by row the singular value it goes with."""
    W, C, r = module(seed)
    for M, (A, sigma) in ((W @ C, init.wc_svd(W, C, r)), (W, init.w_svd(W, r))):
        most = np.linalg.eigvalsh(M @ M.T)[::-1][:r]
        assert captured(M, A) == pytest.approx(most.sum(), rel=1e-10)
        np.testing.assert_allclose(((M @ A.T) ** 2).sum(axis=0), most, atol=1e-10 * most[0])
        np.testing.assert_allclose(sigma[:r] ** 2, most, atol=1e-10 * most[0])
        assert sigma.shape == (min(W.shape),)


@pytest.mark.parametrize(("d_out", "d_in"), [(9, 4), (4, 9), (6, 6), (9, 1), (1, 9)])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_tall_wide_and_rank_deficient_matrices_against_fifty_digits(d_out: int, d_in: int, rank: int) -> None:
    rng = np.random.default_rng(10 * d_out + rank)
    M = rng.standard_normal((d_out, rank)) @ rng.standard_normal((rank, d_in)) if rank else np.zeros((d_out, d_in))
    small = min(d_out, d_in)
    with mpmath.workdps(50):
        exact = mpmath.matrix(M.tolist())
        gram = exact.T * exact if d_in <= d_out else exact * exact.T
        true = sorted((float(mpmath.sqrt(abs(v))) for v in mpmath.eigsy(gram, eigvals_only=True)), reverse=True)
    for r in range(1, min(d_in, d_out + 1) + 1):  # one row beyond what a wide matrix has directions, where there is one
        sigma, Vt = singular.right_singular_vectors(M, r)
        np.testing.assert_allclose(sigma, true, atol=1e-14 * max(1.0, true[0]))
        assert Vt.shape == (r, d_in) and sigma.shape == (small,)
        np.testing.assert_allclose(Vt @ Vt.T, np.eye(r), atol=1e-13)
        lengths = np.sqrt(((M @ Vt.T) ** 2).sum(axis=0))
        np.testing.assert_allclose(lengths, [*true, 0.0][:r], atol=1e-13 * max(1.0, true[0]))


@given(seeds, st.integers(-60, 60))
def test_only_the_direction_of_C_matters(seed: int, power: int) -> None:
    W, C, r = module(seed)
    A, sigma = init.wc_svd(W, C, r)
    scaled, scaled_sigma = init.wc_svd(W, C * 2.0**power, r)
    assert captured(W @ C, scaled) == pytest.approx(captured(W @ C, A), rel=1e-12)
    np.testing.assert_allclose(scaled_sigma, sigma * 2.0**power, rtol=1e-9, atol=1e-9 * sigma[0] * 2.0**power)


def test_the_identity_for_C_gives_w_svd() -> None:
    W = np.diag([3.0, 1.0, 2.0])[:, [2, 0, 1]]  # right singular vectors are axes: e1, e0, e2
    A, sigma = init.wc_svd(W, np.eye(3), 2)
    np.testing.assert_allclose(np.abs(A), np.abs(init.w_svd(W, 2)[0]), atol=1e-15)
    np.testing.assert_allclose(np.abs(A), np.eye(3)[[1, 0]], atol=1e-15)
    assert sigma.tolist() == [3.0, 2.0, 1.0]


def test_it_is_C_and_not_its_root_that_weighs_the_directions() -> None:
    A, sigma = init.wc_svd(np.diag([3.0, 1.0]), np.diag([1.0, 5.0]), 1)  # W C: 3 and 5; W C^1/2: 3 and 2.2
    assert np.abs(A).tolist() == [[0.0, 1.0]]
    assert sigma.tolist() == [5.0, 3.0]


def test_null_directions_complete_an_orthonormal_set_without_the_cap() -> None:
    W, C = np.random.default_rng(0).standard_normal((2, 6)), np.eye(6)
    A, sigma = init.wc_svd(W, C, 5)
    np.testing.assert_allclose(A @ A.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(W @ A[2:].T, 0, atol=1e-14)
    assert sigma.shape == (2,)


def test_float32_switch_and_float64_always_otherwise() -> None:
    W, C, r = module(5)
    A, _ = init.wc_svd(W, C, r)
    rough, _ = init.wc_svd(W, C, r, "float32")
    assert A.dtype == rough.dtype == np.float64
    assert np.array_equal(rough.astype(np.float32), rough)  # each entry is a float32
    assert 0 < np.abs(np.abs(rough) - np.abs(A)).max() < 1e-4
    from_float32, _ = init.wc_svd(W.astype(np.float32), C, r)
    exact, _ = init.wc_svd(W.astype(np.float32).astype(np.float64), C, r)
    assert np.array_equal(from_float32, exact)


def test_the_product_too_is_in_the_weights_dtype_with_the_float32_switch() -> None:
    """1e30 * 1e10 - 1e30 * 1e10: beyond float32, and 0."""
    W, C = np.full((1, 2), 1e30, np.float32), np.array([[1e10], [-1e10]]) * np.ones(2)
    assert init.wc_svd(W, C, 1)[1] == init.wc_svd(W.astype(np.float64), C, 1, "float32")[1] == 0.0
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(NumericsError, match="not finite"):
        init.wc_svd(W, C, 1, "float32")


def test_theoretical_rows_maximise_the_proxy_and_are_not_orthonormal() -> None:
    W, C, _ = module(3)
    A = init.theoretical(W, C, 2)
    np.testing.assert_allclose(A @ (C + 1e-6 * np.eye(len(C))) @ A.T, np.eye(2), atol=1e-9)
    assert np.abs(A @ A.T - np.eye(2)).max() > 1e-3


def test_random_rows_are_uniform_within_peft_s_bound() -> None:
    draws = init.random_uniform(25, 4000, np.random.default_rng(0), like=np.zeros(1))
    assert draws.shape == (4000, 25)
    assert 0.1999 < np.abs(draws).max() <= 0.2  # 1 / sqrt(25)
    assert abs(draws.mean()) < 2e-3
    assert draws.std() == pytest.approx(0.2 / np.sqrt(3), rel=1e-2)


# ---- initialize ----


W = {"q": np.random.default_rng(1).standard_normal((5, 6)), "v": np.random.default_rng(2).standard_normal((4, 6))}
X = np.random.default_rng(3).standard_normal((20, 6))
MODEL = weights(W.__getitem__)
STATS = statistics({"q": X.T @ X, "v": X.T @ X})


def planned(**options: object) -> tr.Plan:
    S = options.pop("S", {"q": 1.0, "v": 1.0})
    return tr.allocate(S, {m: w.shape for m, w in W.items()}, 3, 6.0, **options)


@pytest.mark.parametrize("kind", ["wc-svd", "w-svd", "random", "theory"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_init_gives_an_adapter_in_the_model_s_dtype(kind: str, dtype: type) -> None:
    model = weights(lambda m: W[m].astype(dtype))
    adapter = tr.initialize(model, STATS, planned(), init=kind)
    assert adapter.modules == ["q", "v"]
    for m in adapter.modules:
        assert adapter.A[m].dtype == adapter.B[m].dtype == dtype
        assert adapter.A[m].shape == (3, 6)
        assert adapter.B[m].shape == (len(W[m]), 3)
        assert not adapter.B[m].any()
        assert adapter.scale[m] == 2.0
    assert (adapter.init, adapter.frozen_A, adapter.plan) == (kind, True, planned())
    assert adapter.trainable_parameters() == 9 * 3


def test_inits_differ_and_are_what_their_functions_give() -> None:
    made = {kind: tr.initialize(MODEL, STATS, planned(), init=kind).A["q"] for kind in ("wc-svd", "w-svd", "theory")}
    M = {"wc-svd": W["q"] @ X.T @ X, "w-svd": W["q"]}
    for kind, matrix in M.items():
        assert captured(matrix, made[kind]) == pytest.approx(np.linalg.eigvalsh(matrix @ matrix.T)[-3:].sum())
    best = np.linalg.eigvalsh(W["q"] @ X.T @ X @ W["q"].T)[-3:].sum()
    A = made["theory"]
    fitted = np.linalg.lstsq(X @ A.T, X @ W["q"].T, rcond=None)[0]
    assert ((X @ A.T @ fitted) ** 2).sum() == pytest.approx(best, rel=1e-6)


def test_random_A_depends_on_seed_and_name_and_not_on_order() -> None:
    S, shapes = {"v": 1.0, "q": 1.0}, {m: W[m].shape for m in ("v", "q")}
    there = tr.initialize(MODEL, None, planned(), init="random", seed=7)
    back = tr.initialize(MODEL, None, tr.allocate(S, shapes, 3, 6.0), init="random", seed=7)
    other = tr.initialize(MODEL, None, planned(), init="random", seed=8)
    for m in W:
        assert np.array_equal(there.A[m], back.A[m])
        assert not np.array_equal(there.A[m], other.A[m])
    assert not np.array_equal(there.A["q"], there.A["v"])
    assert np.abs(there.A["q"]).max() <= 6**-0.5


def test_plain_lora_trains_both_matrices() -> None:
    plan = planned(adapt_rank=False, adapt_scale=False, freeze_A=False)
    adapter = tr.initialize(MODEL, None, plan, init="random")
    assert not adapter.frozen_A
    assert adapter.trainable_parameters() == plan.lora_parameters == 3 * (5 + 6 + 4 + 6)


def test_a_module_of_rank_0_has_no_adapter() -> None:
    adapter = tr.initialize(MODEL, STATS, planned(S={"q": 0.0, "v": 1.0}))
    assert list(adapter.A) == list(adapter.B) == list(adapter.scale) == ["v"]


def test_a_copy_has_arrays_of_its_own() -> None:
    adapter = tr.initialize(MODEL, STATS, planned())
    twin = adapter.copy()
    twin.B["q"] += 1.0
    twin.A["q"][:] = 0.0
    twin.scale["q"] = 9.0
    assert not adapter.B["q"].any()
    assert adapter.A["q"].any()
    assert adapter.scale["q"] == 2.0
    assert (twin.plan, twin.init, twin.seed, twin.frozen_A) == (adapter.plan, "wc-svd", 42, True)
    both = tr.initialize(MODEL, None, planned(freeze_A=False), init="random", seed=5).copy()
    assert (both.init, both.seed, both.frozen_A) == ("random", 5, False)


# ---- errors ----


def test_initialize_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="init is 'svd'"):
        tr.initialize(MODEL, STATS, planned(), init="svd")
    for kind in ("wc-svd", "theory"):
        with pytest.raises(ConfigError, match="needs calibration statistics"):
            tr.initialize(MODEL, None, planned(), init=kind)
    with pytest.raises(ConfigError, match="centre=False, the plan"):
        tr.initialize(MODEL, STATS, planned(profile="released"))
    with pytest.raises(ConfigError, match="no covariance of q"):
        tr.initialize(MODEL, statistics({}), planned())
    with pytest.raises(ShapeError, match=r"q is .*plan was made for"):
        tr.initialize(weights(lambda m: W[m].T), STATS, planned())
    with pytest.raises(ShapeError, match=r"^q: W is"):
        tr.initialize(MODEL, statistics({"q": np.eye(5)}), planned())


@pytest.mark.parametrize("kind", ["wc-svd", "w-svd", "theory"])
def test_values_that_are_not_finite_are_named_by_module(kind: str) -> None:
    bad = {"q": W["q"], "v": W["v"].copy()}
    bad["v"][1, 2] = np.nan
    with pytest.raises(NumericsError, match=r"^v: .*not finite"):
        tr.initialize(weights(bad.__getitem__), STATS, planned(), init=kind)


@pytest.mark.parametrize("r", [-1, 7])
def test_ranks_without_so_many_orthonormal_rows(r: int) -> None:
    for make in (lambda: init.wc_svd(W["q"], np.eye(6), r), lambda: init.w_svd(W["q"], r)):
        with pytest.raises(ShapeError, match=f"rank {r}: .* at most 6"):
            make()


@pytest.mark.parametrize("shape", [(6,), (2, 4, 6)])
def test_a_weight_that_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    for make in (lambda W: init.wc_svd(W, np.eye(6), 1), lambda W: init.w_svd(W, 1)):
        with pytest.raises(ShapeError, match=r"expected \(d_out, d_in\)"):
            make(np.ones(shape))


@pytest.mark.parametrize("wide", [5, 7])
def test_a_covariance_of_another_width_is_refused(wide: int) -> None:
    with pytest.raises(ShapeError, match=rf"C \({wide}, {wide}\)"):
        init.wc_svd(np.ones((4, 6)), np.eye(wide), 1)


def test_rank_0_is_a_matrix_without_rows() -> None:
    W = np.random.default_rng(0).standard_normal((4, 6))
    for A in (init.wc_svd(W, np.eye(6), 0)[0], init.w_svd(W, 0)[0], init.theoretical(W, np.eye(6), 0)):
        assert A.shape == (0, 6)


def test_an_svd_that_does_not_converge_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(np.linalg, "svd", fails)
    with pytest.raises(NumericsError, match=r"\(2, 2\) matrix did not converge"):
        singular.right_singular_vectors(np.eye(2), 1)
