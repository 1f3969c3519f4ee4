"""A: row spaces, clusters of singular values, shapes, and what is known without weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import Array, Change, changed, replaced, skipped, without
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.spectrum import row_space, spectrum
from tlora_ref.oracle.traces import Trace


def test_rows_that_are_not_orthogonal_are_told_at_their_place() -> None:
    A = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    inputs = {"W": np.diag([3.0, 2.0, 1.0]), "C": np.eye(3), "r": 2}
    verdict = judge("initialize_a", inputs, A, switches=PROFILES["paper"], precision=Precision.of("float64"))[0]
    assert (verdict.what, verdict.passed, verdict.index) == ("orthonormal rows", False, (0, 1))
    assert (verdict.error, verdict.got, verdict.expected) == pytest.approx((0.6, 0.6, 0.0))
    verdict = judge("initialize_a", inputs, 2 * np.eye(3)[:2], switches=PROFILES["paper"],
                    precision=Precision.of("float64"))[0]  # fmt: skip
    assert (verdict.index, verdict.error, verdict.got, verdict.expected) == ((0, 0), 3.0, 4.0, 1.0)


@pytest.mark.parametrize(
    ("sigma", "rows"),
    [
        ((5.0, 3.0, 2.0, 2.0, 1.0), (0, 2, 3)),
        ((5.0, 2.0, 2.0, 1.5, 0.5), (0, 3)),
        ((5.0, 4.0, 2.0, 2.0, 1.0), (1, 2, 3)),
    ],
)
def test_the_sharp_cuts_around_a_cluster_are_asked_for(sigma: tuple[float, ...], rows: tuple[int, ...]) -> None:
    """The cut at r splits two equal values: the nearest sharp cuts, below it and above it, still hold."""
    inputs = {"W": np.diag(sigma), "C": np.eye(5), "r": len(rows)}
    verdicts = judge(
        "initialize_a", inputs, np.eye(5)[list(rows)], switches=PROFILES["paper"], precision=Precision.of("float64")
    )
    assert [v.passed for v in verdicts if v.what == "row space"] == [False]


def test_the_worst_cut_is_told() -> None:
    """A is tilted a little out of the first two directions, and stays in the first three."""
    found = spectrum(np.diag([4.0, 2.0, 1.0, 0.5]), np.eye(4), PROFILES["paper"], Precision.of("float32"))
    A = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1e-12, 0.0]])
    verdict = row_space("initialize_a", A, found, 1e-6)
    assert verdict.passed and verdict.index == (2,) and verdict.error == pytest.approx(1e-12, rel=1e-3)


def test_a_cut_through_a_cluster_asks_for_the_cluster() -> None:
    """Three equal singular values, two wanted: any two directions of the three are right, another is not."""
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    W, C = np.diag([5.0, 2.0, 2.0, 2.0, 1.0]), np.eye(5)
    inputs = {"W": W, "C": C, "r": 3}
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    A = np.zeros((3, 5))
    A[0, 0] = 1.0
    A[1:, 1:4] = turn[:2]
    assert all(v.passed for v in judge("initialize_a", inputs, A, switches=paper, precision=precision))
    A[2] = np.eye(5)[4]
    failed = [v.what for v in judge("initialize_a", inputs, A, switches=paper, precision=precision) if not v.passed]
    assert "row space" in failed


def test_A_is_judged_without_weights(golden: Path, tmp_path: Path) -> None:
    """By the golden A where the cut is sharp; another rank, no covariance and a split cluster are skipped."""
    module = Trace(golden).modules("A")[1]

    def findings(change: Change, folder: str, of: str = "c") -> tr.Report:
        other = changed(golden, tmp_path / folder, change)
        return tr.compare(golden, other) if of == "c" else tr.compare(other, golden)

    flipped = findings(replaced(rf"A/{module}", lambda t, k: -t[k][::-1]), "flip")
    assert not [f for f in flipped.findings if f.stage == "A" and f.status != "pass"]
    turned = findings(replaced(rf"A/{module}", lambda t, k: t[k] + 0.01 * np.roll(t[k], 1, axis=1)), "turn")
    assert [f.module for f in turned.of("fail") + turned.of("cascade") if f.stage == "A"] == [module]
    cut = findings(
        lambda t: replaced(rf"A/{module}", lambda u, k: u[k][:-1])(without(rf"(rank|train/.*|merged)/{module}")(t)),
        "cut",
    )
    assert "another rank than the golden one" in skipped(cut, "A")
    bare = findings(without(f"covariance/{module}"), "bare", of="g")
    assert "the golden trace has no covariance" in skipped(bare, "A")

    def level(tensors: dict[str, Array], name: str) -> Array:
        return np.full_like(tensors[name], tensors[name][0])

    cluster = findings(replaced(f"sigma/{module}", level), "level", of="g")
    assert "splits a cluster" in skipped(cluster, "A")


SHAPES = [  # W is (4, 7), r is 3
    ((7, 3), "A is transposed"),
    ((3, 4), "A holds left singular vectors, of length d_out"),
    ((7, 7), "A is not cut to r rows"),
    ((3, 5), None),
    ((7,), None),
    ((3, 7, 1), None),
    ((4, 4), "A holds left singular vectors, of length d_out"),
]


@pytest.mark.parametrize(("shape", "cause"), SHAPES)
def test_the_shape_of_A_tells_a_slip(shape: tuple[int, ...], cause: str | None) -> None:
    rng = np.random.default_rng(0)
    inputs = {"W": rng.normal(size=(4, 7)), "C": np.eye(7), "r": 3}
    (verdict,) = judge(
        "initialize_a", inputs, np.ones(shape), switches=PROFILES["paper"], precision=Precision.of("float64")
    )
    said = f"shape {shape}, expected (3, 7)"
    assert not verdict.passed and verdict.cause == (said if cause is None else f"{said}: {cause}")


def test_a_square_module_has_no_left_vectors_by_shape() -> None:
    inputs = {"W": np.eye(5), "C": np.eye(5), "r": 2}
    (verdict,) = judge(
        "initialize_a", inputs, np.ones((3, 5)), switches=PROFILES["paper"], precision=Precision.of("float64")
    )
    assert verdict.cause == "shape (3, 5), expected (2, 5)"
