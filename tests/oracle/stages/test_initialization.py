"""A: row spaces, clusters of singular values, shapes, and what is known without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, Array, Change, changed, replaced, skipped, without
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.spectrum import row_space, rows, spectrum
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
    assert {f.module for f in turned.of("fail") + turned.of("cascade") if f.stage == "A"} == {module}
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


ROTATION = np.array([[0.8, -0.6], [0.6, 0.8]])


def spun(tensors: dict[str, Array], name: str, degrees: float = 3.0) -> Array:
    """The first two rows rotated among themselves."""
    A, (c, s) = np.array(tensors[name]), (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
    A[:2] = np.array([[c, -s], [s, c]]) @ A[:2]
    return A


@pytest.mark.parametrize("checkpoint", [MODEL, None], ids=["weights", "none"])
def test_rows_rotated_in_their_row_space_are_wrong(checkpoint: object, golden: Path, tmp_path: Path) -> None:
    trace = Trace(golden)
    module = next(m for m in trace.modules("A") if len(trace.get(f"A/{m}")) > 1)
    keep = without(r"train/.*|merged/.*")
    turned = changed(golden, tmp_path / "c", lambda t: keep(replaced(f"A/{module}", spun)(t)))
    report = tr.compare(golden, turned, checkpoint=checkpoint)  # type: ignore[arg-type]
    wrong = [(f.verdict.what, f.module) for f in report.of("fail") if f.verdict]
    assert set(wrong) == {("rows", module)} and "rotated inside their row space" in str(report.cause)


def test_the_order_and_the_signs_of_rows_are_free_and_a_rotation_is_not() -> None:
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    inputs = {"W": np.diag([4.0, 3.0, 2.0, 1.0]), "C": np.eye(4), "r": 3}
    A = np.eye(4)[:3]

    def failed(got: Array, **other: object) -> list[tuple[str, object, str | None]]:
        verdicts = judge("initialize_a", inputs | other, got, switches=paper, precision=precision)
        return [(v.what, v.index, v.cause) for v in verdicts if not v.passed]

    assert failed(A[[2, 0, 1]] * np.array([[1.0], [-1.0], [-1.0]])) == []
    turned = np.concatenate([A[:1], ROTATION @ A[1:]])
    ((what, index, cause),) = failed(turned)
    assert (what, index) == ("rows", (1,)) and "rotated inside their row space" in str(cause)
    assert failed(turned, W=np.diag([4.0, 2.0, 2.0, 1.0])) == []  # a cluster: any basis of it
    # at the rank of both sides every A has the right row space: the rows tell
    whole = {"W": np.array([[2.0, 1.0], [0.0, 1.0]]), "C": np.diag([1.0, 9.0]), "r": 2}
    of_W = np.linalg.svd(whole["W"])[2]
    assert failed(of_W, **whole)[0][2] == "A ignores C: right singular vectors of W (W-SVD)"


def test_the_rows_that_a_cluster_leaves_free_are_told(golden: Path, tmp_path: Path) -> None:
    found = spectrum(np.diag([5.0, 2.0, 2.0, 1.0, 0.5]), np.eye(5), PROFILES["paper"], Precision.of("float64"))
    A = np.eye(5)[[3, 1, 0, 2]]
    assert "rows [1, 3] of A" in rows("A", A, found, 1e-9).note
    A[[1, 3]] = ROTATION @ A[[1, 3]]
    assert rows("A", A, found, 1e-9).passed
    A[[0, 1]] = ROTATION @ A[[0, 1]]
    wrong = rows("A", A, found, 1e-9)
    assert not wrong.passed and wrong.index == (0,) and wrong.error == pytest.approx(0.6)
    assert rows("A", np.eye(5)[:2], replace(found, sigma=np.ones(5)), 0.0).note  # nothing is determined
    assert not rows(
        "A", np.eye(1), spectrum(np.eye(1), np.eye(1), PROFILES["paper"], Precision.of("float64")), 0.0
    ).note
    module = Trace(golden).modules("A")[1]
    level = changed(golden, tmp_path / "g", replaced(f"sigma/{module}", lambda t, k: np.full_like(t[k], t[k][0])))
    report = tr.compare(level, golden)
    assert [f.module for f in report.of("note") if "free inside a cluster" in f.why] == [module]
    assert report.to_dict()["findings"][0]["why"]


SPECTRA: dict[str, tuple[float, ...]] = {
    "apart": (9.0, 7.0, 5.0, 3.0, 1.0, 0.5),
    "pairs": (9.0, 9.0, 4.0, 4.0, 1.0, 1.0),
    "all equal": (1.0,) * 6,
    "nearly equal": (2.0, 2.0 - 1e-3, 2.0 - 2e-3, 1.0, 1.0 - 1e-6, 0.5),
    "low rank": (3.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    "a long tail": (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", SPECTRA)
def test_right_rows_of_any_spectrum_are_right_in_any_precision(name: str, dtype: str) -> None:
    """W C formed, decomposed and stored in the precision; rows in another order, with other signs."""
    precision, work = Precision.of(dtype), np.float64 if dtype == "float64" else np.float32
    for seed in range(12):
        rng = np.random.default_rng(seed)
        d_out, d_in, r = (int(n) for n in rng.integers((6, 6, 1), (12, 12, 7)))
        P, Q = (np.linalg.qr(rng.normal(size=(d, 6)))[0] for d in (d_out, d_in))
        X = rng.normal(size=(3 * d_in, d_in)) * rng.uniform(0.1, 3.0, size=d_in)
        C = precision.rounded(X.T @ X)
        W = precision.rounded(P * SPECTRA[name] @ Q.T @ np.linalg.inv(C))  # W C has these singular values, about
        product = precision.rounded(W.astype(work) @ C.astype(work))
        A = np.linalg.svd(product.astype(work), full_matrices=True)[2][:r]
        A = precision.rounded(A[rng.permutation(r)] * rng.choice([-1.0, 1.0], size=(r, 1)))
        for verdict in judge(
            "initialize_a", {"W": W, "C": C, "r": r}, A, switches=PROFILES["paper"], precision=precision
        ):
            assert verdict.passed, f"{name}, {dtype}, seed {seed}: {verdict.line()}"


@pytest.mark.parametrize(
    ("dtype", "degrees", "seen"),
    [("float64", 1e-8, ["rows"]), ("float32", 0.01, ["rows"]), ("bfloat16", 6.0, ["rows", "directions of rows"])],
)
def test_how_small_a_rotation_is_seen(dtype: str, degrees: float, seen: list[str]) -> None:
    precision, rng = Precision.of(dtype), np.random.default_rng(0)
    P, Q = (np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(2))
    W = precision.rounded(P * 2.0 ** -np.arange(8.0) @ Q.T)
    A = {"A": np.linalg.svd(W)[2][:4]}
    inputs = {"W": W, "C": np.eye(8), "r": 4}
    verdicts = judge(
        "initialize_a",
        inputs,
        precision.rounded(spun(A, "A", degrees)),
        switches=PROFILES["paper"],
        precision=precision,
    )
    assert [v.what for v in verdicts if not v.passed] == seen


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
