"""The judges: no false alarm over arithmetics and shapes, every slip seen, expected values from mpmath."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import STAGES, Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import entries
from tlora_ref.oracle.stages.ranks import _is_open_tie, _representable
from tlora_ref.oracle.stages.spectrum import row_space, spectrum
from tlora_ref.oracle.verdict import Verdict

DTYPES = ("float64", "float32", "bfloat16", "float16", "tf32")


def cases(seed: int, precision: Precision, r: int | None = None) -> dict[str, dict[str, Any]]:
    """Inputs of every stage, of random small shapes, rounded to the storage."""
    rng = np.random.default_rng(seed)
    tokens, d_in, d_out, rank, n = (int(rng.integers(1, top)) for top in (20, 30, 30, 8, 5))
    rank = min(r or rank, d_in, d_out)

    def normal(*shape: int) -> np.ndarray:
        return precision.rounded(rng.normal(size=shape))

    A = precision.rounded(np.linalg.qr(rng.normal(size=(d_in, rank)))[0].T)
    W, B, x, dy = normal(d_out, d_in), normal(d_out, rank), normal(tokens, d_in), normal(tokens, d_out)
    X = [normal(int(rng.integers(1, 9)), d_in) for _ in range(n)]
    labels = rng.integers(0, 11, size=tokens + 3)
    labels[:2] = -100
    return {
        "loss": {"logits": normal(tokens + 3, 11), "labels": labels},
        "covariance": {"inputs": X},
        "sensitivity": {"W": W, "gradients": [normal(d_out, d_in) for _ in range(n)]},
        "allocate": {
            "sensitivity": precision.rounded(np.abs(rng.normal(size=6))),
            "shapes": [(d_out, d_in)] * 6,
            "r_init": 3,
            "alpha": 4.0,
        },
        "initialize_a": {"W": W, "C": precision.rounded(sum(a.T @ a for a in X) / n), "r": rank},
        "forward": {"x": x, "W": W, "A": A, "B": B, "scale": 0.7},
        "grad_b": {"x": x, "dy": dy, "A": A, "B": B, "scale": 0.7},
        "adamw_step": {
            **{"B": B, "grad": normal(d_out, rank), "exp_avg": normal(d_out, rank)},
            **{"exp_avg_sq": precision.rounded(np.abs(rng.normal(size=(d_out, rank)))), "step": 3, "lr": 1e-2},
            **{"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        },
        "train": {
            **{"A": A, "x": [normal(tokens, d_in) for _ in range(4)]},
            **{"dy": [normal(tokens, d_out) for _ in range(4)], "scale": 0.7, "lr": [0.01, 0.02, 0.01, 0.0]},
        },
        "merge": {"W": W, "A": A, "B": B, "scale": 0.7},
    }


def in_its_arithmetic(reference: Reference, stage: str, inputs: dict[str, Any], precision: Precision) -> Any:
    """The reference's formulas in the candidate's arithmetic: sums in float32 below float64, results stored."""
    work = np.float64 if precision.name == "float64" else np.float32

    def cast(value: Any) -> Any:
        if isinstance(value, list) and isinstance(value[0], np.ndarray):
            return [cast(entry) for entry in value]
        return value.astype(work) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    exact = stage in ("allocate", "initialize_a")  # their arithmetic is that of the SVD library, or of scalars
    output = getattr(reference, stage)(**(inputs if exact else {k: cast(v) for k, v in inputs.items()}))

    def keep(value: Any) -> Any:
        return precision.rounded(value) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    return tuple(map(keep, output)) if isinstance(output, tuple) else keep(output)


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(DTYPES), profile=st.sampled_from(sorted(PROFILES)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_right_in_another_arithmetic_is_right(seed: int, dtype: str, profile: str) -> None:
    precision, switches = Precision.of(dtype), PROFILES[profile]
    for stage, inputs in cases(seed, precision).items():
        output = in_its_arithmetic(Reference(switches), stage, inputs, precision)
        for verdict in judge(stage, inputs, output, switches=switches, precision=precision):
            assert verdict.passed, f"{stage}: {verdict.line()}"


@pytest.mark.parametrize("stage", sorted(STAGES))
@pytest.mark.parametrize("output", [None, "text", [[1.0], [1.0, 2.0]], np.full((3, 2), np.nan), np.zeros((1, 1, 1))])
def test_what_is_no_answer_is_wrong_and_never_raises(stage: str, output: Any) -> None:
    precision = Precision.of("float64")
    inputs = cases(1, precision)[stage]
    assert not all(v.passed for v in judge(stage, inputs, output, switches=PROFILES["paper"], precision=precision))


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_thousandth_off_is_wrong_in_float32(stage: str) -> None:
    precision = Precision.of("float32")
    inputs = cases(5, precision, r=3)[stage]
    output = getattr(Reference(), stage)(**inputs)

    def bent(value: Any) -> Any:
        return value * 1.001 if np.asarray(value).dtype.kind == "f" else value + 1

    wrong = tuple(map(bent, output)) if isinstance(output, tuple) else bent(output)
    assert not all(v.passed for v in judge(stage, inputs, wrong, switches=PROFILES["paper"], precision=precision))


def exact(matrix: np.ndarray) -> Any:
    return mpmath.matrix(np.asarray(matrix, np.float64).tolist())


def test_expected_values_agree_with_fifty_digits() -> None:
    """What the judges expect is what mpmath computes: the verdict's `expected` at its worst entry, and a pass."""
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    for seed in range(4):
        inputs = cases(seed, precision)
        with mpmath.workdps(50):
            low = inputs["merge"]
            merged = exact(low["W"]) + mpmath.mpf(0.7) * exact(low["B"]) * exact(low["A"])
            forward = exact(low["W"]).T
            f = inputs["forward"]
            y = exact(f["x"]) * forward + mpmath.mpf(0.7) * exact(f["x"]) * exact(f["A"]).T * exact(f["B"]).T
            g = inputs["grad_b"]
            dB = mpmath.mpf(0.7) * exact(g["dy"]).T * (exact(g["x"]) * exact(g["A"]).T)
            X = [exact(x) for x in inputs["covariance"]["inputs"]]
            C = sum((x.T * x for x in X[1:]), start=X[0].T * X[0]) / len(X)
            truths = {"merge": merged, "forward": y, "grad_b": dB, "covariance": C}
            as_floats = {stage: np.array(m.tolist(), dtype=np.float64) for stage, m in truths.items()}
            s = inputs["sensitivity"]
            S = sum(
                mpmath.fsum(abs(mpmath.mpf(w) * mpmath.mpf(d)) for w, d in zip(s["W"].flat, G.flat, strict=True))
                for G in s["gradients"]
            )
            as_floats["sensitivity"] = np.array(float(S / (s["W"].size * len(s["gradients"]))))
        for stage, truth in as_floats.items():
            for verdict in judge(stage, inputs[stage], truth, switches=paper, precision=precision):
                assert verdict.passed, f"{stage}: {verdict.line()}"


def test_exact_ties_go_to_even_and_open_ties_either_way() -> None:
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    inputs = {"sensitivity": np.array([1.0, 3.0, 4.0]), "shapes": [(9, 9)] * 3, "r_init": 4, "alpha": 4.0}
    scales = np.array([0.375, 1.125, 1.5])  # 3 S / 8
    for ranks, right in (([2, 4, 6], True), ([1, 4, 6], False), ([2, 5, 6], False)):  # shares 1.5, 4.5, 6
        verdicts = judge("allocate", inputs, (np.array(ranks), scales), switches=paper, precision=precision)
        assert all(v.passed for v in verdicts) is right
    thirds = {**inputs, "sensitivity": np.array([0.1, 0.3, 0.2])}  # shares 2, 6, 4 of 12 but for rounding
    thirds["r_init"] = 1  # 0.5, 1.5, 1: ties that no binary fraction holds
    for first in (0, 1):
        output = (np.array([first, 2, 1]), np.array([0.1, 0.3, 0.2]) / 0.2 * 4.0)
        assert all(v.passed for v in judge("allocate", thirds, output, switches=paper, precision=precision))


@pytest.mark.parametrize(
    ("exact", "distance", "open_"),
    [(4.5, 1e-5, True), (4.5, -1e-5, True), (4.5, 3e-5, False), (4.5, -3e-5, False), (0.5, 2.5e-6, True),
     (0.5, 6e-6, False)],
)  # fmt: skip
def test_how_near_to_a_tie_is_open_in_float32(exact: float, distance: float, open_: bool) -> None:
    """Two modules: 6 (sqrt(2) + 3) 2^-23 max(1, exact), which is 1.42e-5 at 4.5 of 8 and 3.2e-6 at 0.5."""
    precision, paper = Precision.of("float32"), PROFILES["paper"]
    first = (exact + distance) / 8
    S = np.array([first, 1 - first])
    inputs = {"sensitivity": S, "shapes": [(99, 99)] * 2, "r_init": 4, "alpha": 4.0}
    right, other = sorted((np.floor(exact), np.ceil(exact)), reverse=distance > 0)
    for rank, passes in ((right, True), (other, open_)):
        output = (np.array([rank, 8 - right]), 2 * S)
        assert judge("allocate", inputs, output, switches=paper, precision=precision)[0].passed is passes


@pytest.mark.parametrize(("distance", "open_"), [(4e-6, True), (-4e-6, True), (6.5e-6, False), (-6.5e-6, False)])
def test_a_sum_over_more_modules_is_off_by_more(distance: float, open_: bool) -> None:
    """Sixteen modules: 6 (4 + 3) 2^-23 is 5.0e-6."""
    first = (0.5 + distance) / 16
    S = np.array([first, *[(1 - first) / 15] * 15])
    assert _is_open_tie(S, 0, 16, Precision.of("float32")) is open_


@pytest.mark.parametrize(
    ("value", "float32", "float64"),
    [
        (Fraction(3, 8), True, True),
        (Fraction(1, 3), False, False),
        (Fraction(2**24 + 1), False, True),
        (Fraction(2**24 - 1), True, True),
        (Fraction(2**40), True, True),
        (Fraction(2**25 - 1, 2**30), False, True),
        (Fraction((2**24 - 1) * 2**9), True, True),
        (Fraction(2**53 + 1), False, False),
        (Fraction(2**53 - 1, 2**60), False, True),
        (Fraction(5, 6), False, False),
    ],
)
def test_what_a_mantissa_holds(value: Fraction, float32: bool, float64: bool) -> None:
    """Against NumPy: what is exact survives the conversion."""
    for dtype, unit, expected in ((np.float32, 2.0**-23, float32), (np.float64, 2.0**-52, float64)):
        assert _representable(value, unit) is expected
        assert (Fraction(float(dtype(value.numerator / value.denominator))) == value) is expected


@pytest.mark.parametrize(
    ("S", "R_total", "open_", "why"),
    [
        ([1.0, 3.0], 2, False, "every step is a short binary fraction"),
        ([3.0, 9.0], 2, True, "R_total / sum is a sixth"),
        ([1.0, 1.0, 4.0], 3, True, "the share is a sixth"),
        ([9.0, 5.0, 5.0, 5.0], 12, False, "sum 24, share 3/8, product 108, R_total / sum a half"),
        ([8388609.0, 25165827.0], 2, True, "the sum has 24 bits and divides nothing"),
    ],
)
def test_a_tie_is_closed_where_every_order_of_arithmetic_is_exact(
    S: list[float], R_total: int, open_: bool, why: str
) -> None:
    assert _is_open_tie(np.array(S), 0, R_total, Precision.of("float32")) is open_, why


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


def test_the_worst_entry_is_the_one_furthest_beyond_its_own_bound() -> None:
    """An entry that is exactly right where nothing is allowed is no worse than one within its bound."""
    verdict = entries("merge", "W", np.array([2.0, 1.2]), np.array([2.0, 1.0]), np.array([0.0, 0.4]))
    assert verdict.passed and verdict.index == (1,) and verdict.allowed == 0.4
    wrong = entries("merge", "W", np.array([2.0, 1.2, 5.1]), np.array([2.0, 1.0, 5.0]), np.array([0.0, 0.4, 0.0]))
    assert not wrong.passed and wrong.index == (2,)


def test_a_cause_is_the_first_slip_that_changes_something_and_fits() -> None:
    expected = np.array([1.0, 2.0])

    def cause(got: list[float], *slips: tuple[str, list[float]]) -> str | None:
        made = [(text, lambda output=output: np.array(output)) for text, output in slips]
        return entries("merge", "W", np.array(got), expected, 0.01, made).cause

    # beyond the bound, but within the four bounds that an explanation may be off by: right explains nothing
    assert cause([1.0, 2.02], ("right", [1.0, 2.0])) is None
    assert cause([1.0, 2.1], ("hardly another", [1.0, 2.12])) is None
    assert cause([1.0, 1.5], ("far", [1.0, 1.0])) is None
    assert (
        cause([1.0, 1.5], ("of another shape", [1.5]), ("not finite", [1.0, np.nan]), ("this", [1.0, 1.49])) == "this"
    )
    assert cause([1.0, 1.5], ("first", [1.0, 1.51]), ("second", [1.0, 1.5])) == "first"


@pytest.mark.parametrize(("step", "counted"), [(2, 1), (3, 2), (1, 2), (2, 3)])
def test_a_step_that_is_miscounted_is_named(step: int, counted: int) -> None:
    inputs = {**cases(0, Precision.of("float64"))["adamw_step"], "step": step}
    output = Reference().adamw_step(**{**inputs, "step": counted})
    verdicts = judge("adamw_step", inputs, output, switches=PROFILES["paper"], precision=Precision.of("float64"))
    said = "counted from 0" if counted < step else "one step ahead"
    assert [v.what for v in verdicts if not v.passed] == ["B"] and said in str(verdicts[-1].cause)


def test_the_worst_cut_is_told() -> None:
    """A is tilted a little out of the first two directions, and stays in the first three."""
    found = spectrum(np.diag([4.0, 2.0, 1.0, 0.5]), np.eye(4), PROFILES["paper"], Precision.of("float32"))
    A = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1e-12, 0.0]])
    verdict = row_space("initialize_a", A, found, 1e-6)
    assert verdict.passed and verdict.index == (2,) and verdict.error == pytest.approx(1e-12, rel=1e-3)


def test_of_nothing_nothing_is_wrong() -> None:
    assert entries("forward", "entries", np.zeros((0, 3)), np.zeros((0, 3)), 0.0) == Verdict("forward", "entries", True)
    verdict = Verdict("forward", "entries", True)
    assert (verdict.error, verdict.allowed) == (0.0, 0.0)


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
