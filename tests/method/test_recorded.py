"""Both columns, the paper's and the released code's, against what was recorded with PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import subspace_angles

import tlora_ref as tr
from tests.method.recorded import CASES, Recorded, recorded
from tests.method.stand_ins import statistics, weights
from tlora_ref import algorithm
from tlora_ref.method import allocation
from tlora_ref.method.covariance import second_moment
from tlora_ref.method.initialization import wc_svd
from tlora_ref.method.switches import PROFILES

pytestmark = pytest.mark.parametrize("case", CASES)


def assert_close(got: np.ndarray, expected: np.ndarray, relative: float = 1e-9) -> None:
    assert np.shape(got) == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=relative * np.abs(expected).max())


def largest_angle(A: np.ndarray, A_other: np.ndarray) -> float:
    assert A.shape == A_other.shape
    return float(np.sin(subspace_angles(A.T, A_other.T).max()))


def vector(record: Recorded, name: str) -> np.ndarray:
    return np.array([record.scalar(name, m) for m in record.modules])


def planned(record: Recorded, column: str, profile: str) -> tr.Plan:
    S = {m: record.scalar(f"{column}.score", m) for m in record.modules}
    return tr.allocate(S, record.shapes(), record.settings["r_init"], record.settings["alpha"], profile)


@pytest.mark.parametrize(("column", "centre"), [("paper", False), ("official", True)])
def test_covariance(case: str, column: str, centre: bool) -> None:
    record = recorded(case)
    for m in record.modules:
        inputs = record.inputs(m)
        C = sum(second_moment(X, centre=centre) for X in inputs) / len(inputs)
        assert_close(C, record.truth[f"{column}.cov/{m}"])


@pytest.mark.parametrize("column", ["paper", "official"])
def test_score_is_the_mean_over_samples(case: str, column: str) -> None:
    record = recorded(case)
    for m in record.modules:
        assert record.scalar(f"{column}.score", m) == pytest.approx(record.truth[f"stats.sens/{m}"].mean(), rel=1e-9)


def test_paper_plan(case: str) -> None:
    record = recorded(case)
    plan = planned(record, "paper", "paper")
    for m in record.modules:
        assert plan.rank_eq6[m] == record.scalar("paper.rank", m)
        assert plan.rank[m] == record.scalar("paper.rank_used", m)
        assert plan.share[m] == pytest.approx(record.scalar("paper.share", m), rel=1e-9)
        assert plan.scale(m) == pytest.approx(record.scalar("paper.scaling", m), rel=1e-9)
        used = record.scalar("paper.rank_used", m)
        assert plan.alpha[m] == pytest.approx(used * record.scalar("paper.scaling", m), rel=1e-9)


def test_alpha_of_equation_7_takes_the_rank_of_equation_6(case: str) -> None:
    record = recorded(case)
    r_init, alpha_total = record.settings["r_init"], len(record.modules) * record.settings["alpha"]
    alphas = allocation.alphas(vector(record, "paper.rank"), vector(record, "paper.share"), alpha_total, r_init)
    assert_close(alphas, vector(record, "paper.alpha"))


def test_paper_projection_and_singular_values(case: str) -> None:
    record = recorded(case)
    plan = planned(record, "paper", "paper")
    stats = statistics({m: record.truth[f"paper.cov/{m}"] for m in record.modules})
    adapter = tr.initialize(weights(record.weight), stats, plan, spectrum=True)
    assert adapter.modules == [m for m in record.modules if f"paper.A/{m}" in record.truth]
    assert adapter.frozen_A
    for m in adapter.modules:
        assert_close(adapter.sigma[m], record.truth[f"paper.S/{m}"])
        assert largest_angle(adapter.A[m], record.truth[f"paper.A/{m}"]) < 1e-9
        assert adapter.B[m].shape == (record.shapes()[m][0], plan.rank[m])
        assert not adapter.B[m].any()
        assert adapter.scale[m] == plan.scale(m)


def test_released_plan_is_exact(case: str) -> None:
    record = recorded(case)
    r_init, alpha = record.settings["r_init"], record.settings["alpha"]
    given = algorithm.allocate(
        vector(record, "official.score"), list(record.shapes().values()), r_init, alpha, PROFILES["released"]
    )
    assert given.rank_settled.tolist() == vector(record, "official.rank").tolist()
    assert given.scale.tolist() == vector(record, "official.scaling").tolist()
    assert (given.scale * r_init).tolist() == vector(record, "official.a").tolist()
    assert given.rank_settled.sum() == len(record.modules) * r_init
    plan = planned(record, "official", "released")
    widths = {m: shape[1] for m, shape in record.shapes().items()}
    assert plan.rank == {m: min(record.scalar("official.rank", m), widths[m]) for m in record.modules}


def test_released_projection(case: str) -> None:
    record = recorded(case)
    plan = planned(record, "official", "released")
    stats = statistics({m: record.truth[f"official.cov/{m}"] for m in record.modules}, centre=True)
    adapter = tr.initialize(weights(record.weight), stats, plan, spectrum=True)
    assert not adapter.frozen_A
    assert adapter.modules == [m for m in record.modules if f"official.lora_A/{m}" in record.truth]
    for m in adapter.modules:
        theirs = record.truth[f"official.lora_A/{m}"]
        assert adapter.A[m].shape == theirs.shape
        known = min(len(theirs), *record.shapes()[m])  # rows beyond are null directions of W C, in no determined order
        assert largest_angle(adapter.A[m][:known], theirs[:known]) < 1e-4
        assert_close(adapter.sigma[m], record.truth[f"official.S64/{m}"], 1e-6)  # made in float32
        _, sigma = wc_svd(record.weight(m), record.truth[f"official.cov/{m}"], known)
        assert_close(sigma, record.truth[f"official.S64/{m}"])


@pytest.mark.parametrize("column", ["paper", "official"])
def test_the_whole_of_algorithm_1(case: str, column: str) -> None:
    """From inputs and gradients that have the recorded statistics to the recorded ranks, alphas and projections."""
    record = recorded(case)
    W = {m: record.weight(m) for m in record.modules}
    inputs = {m: record.inputs(m) for m in record.modules}

    def sample(n: int) -> Callable[[str], algorithm.Observation]:  # dW = S_n / W has |W * dW| = S_n in every entry
        return lambda m: (inputs[m][n], -record.truth[f"stats.sens/{m}"][n] / W[m])

    samples = [sample(n) for n in range(record.settings["N"])]
    r_init, alpha = record.settings["r_init"], record.settings["alpha"]
    profile, rank, name_A, angle = {
        "paper": ("paper", "paper.rank_used", "paper.A", 1e-9),
        "official": ("released", "official.rank", "official.lora_A", 1e-4),
    }[column]
    r, alphas, A, B = algorithm.algorithm_1(W, samples, r_init, alpha, PROFILES[profile])
    assert r == {m: min(record.scalar(rank, m), W[m].shape[1]) for m in record.modules}
    for m in record.modules:
        assert alphas[m] == pytest.approx(r[m] * record.scalar(f"{column}.scaling", m), rel=1e-9)
        known = min(r[m], *W[m].shape)
        assert largest_angle(A[m][:known], record.truth[f"{name_A}/{m}"][:known]) < angle
        assert B[m].shape == (len(W[m]), r[m])
