"""The judges: no false alarm over arithmetics and shapes, every slip seen, expected values from mpmath."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.stages.cases import DTYPES, cases
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import STAGES, Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import entries
from tlora_ref.oracle.verdict import Verdict


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


def test_the_worst_entry_is_the_one_furthest_beyond_its_own_bound() -> None:
    """An entry that is exactly right where nothing is allowed is no worse than one within its bound."""
    verdict = entries("merge", "W", np.array([2.0, 1.2]), np.array([2.0, 1.0]), np.array([0.0, 0.4]))
    assert verdict.passed and verdict.index == (1,) and verdict.allowed == 0.4
    wrong = entries("merge", "W", np.array([2.0, 1.2, 5.1]), np.array([2.0, 1.0, 5.0]), np.array([0.0, 0.4, 0.0]))
    assert not wrong.passed and wrong.index == (2,)


def test_a_cause_is_the_slip_that_changes_something_and_leaves_least() -> None:
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
    assert cause([1.0, 1.5], ("nearly", [1.0, 1.51]), ("just this", [1.0, 1.5])) == "just this"
    assert cause([1.0, 1.5], ("first", [1.0, 1.5]), ("second", [1.0, 1.5])) == "first"


def test_of_nothing_nothing_is_wrong() -> None:
    assert entries("forward", "entries", np.zeros((0, 3)), np.zeros((0, 3)), 0.0) == Verdict("forward", "entries", True)
    verdict = Verdict("forward", "entries", True)
    assert (verdict.error, verdict.allowed) == (0.0, 0.0)
