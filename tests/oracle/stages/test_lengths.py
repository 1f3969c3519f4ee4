"""The lengths of rows that are stored in a low precision, by figures done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.lengths import judge_lengths

LOW = Precision.of("bfloat16")


def rows(entries: int, count: int, factor: float = 1.0) -> Array:
    """Rows of one number, of that length."""
    return np.full((count, entries), factor / math.sqrt(entries))


def test_the_spacing_of_numbers_is_that_of_their_power_of_two() -> None:
    x = np.array([1.0, 1.9, 2.0, -3.0, 0.25, 0.0])
    assert (LOW.spacing(x)[:5] == np.array([1.0, 1.0, 2.0, 2.0, 0.25]) / 128.0).all()
    assert LOW.spacing(x)[5] == 2.0**-126 / 128.0
    half = Precision.of("float16")
    assert half.spacing(np.array([2.0**-14, 1e-7])).tolist() == [2.0**-24, 2.0**-24]  # its smallest steps


def test_a_row_of_length_1_may_be_off_by_eight_standard_deviations_of_its_entries_roundings() -> None:
    """64 entries of 1/8, a spacing of 2^-10 from the next: to first order the length is their sum over 8."""
    A = rows(64, 5)
    row, mean = judge_lengths({"m": A}, LOW, 1e-5)
    deviation = math.sqrt(64 * (0.125 * 2.0**-10) ** 2 / 12.0)
    assert row.passed and row.error == 0.0 and row.allowed == pytest.approx(8.0 * deviation + 1e-5, rel=1e-12)
    assert mean.passed and mean.allowed == pytest.approx(8.0 * deviation / math.sqrt(5.0) + 1e-5, rel=1e-12)
    assert mean.detects == mean.allowed and (mean.got, mean.expected) == (1.0, 1.0)


@pytest.mark.parametrize(("spacings", "said"), [(1, "longer"), (-2, "shorter")])
def test_rows_that_are_all_off_alike_are_seen_over_the_modules_and_named(spacings: int, said: str) -> None:
    """A quarter of the entries of 1/8 is 1/128 larger or smaller: by 1/512 of its length each row is."""
    A = rows(64, 4)
    A[:, :16] *= 1.0 + spacings * (2.0**-7 if spacings > 0 else 2.0**-8)
    row, mean = judge_lengths(dict.fromkeys("abc", A), LOW, 1e-5)
    off = math.sqrt((48 + 16 * (1.0 + math.copysign(2.0**-7, spacings)) ** 2) / 64.0) - 1.0
    assert row.passed and row.cause is None and not mean.passed
    assert row.error == pytest.approx(abs(off), rel=1e-9) == mean.error and mean.got == pytest.approx(1.0 + off)
    assert mean.cause == f"the rows of A are all {said} than 1"
    one, _ = judge_lengths({"a": A * (1.0 + math.copysign(2.0**-4, spacings))}, LOW, 1e-5)
    assert not one.passed and one.cause == mean.cause


def test_one_row_that_is_off_alone_is_told_by_its_number_without_that_cause() -> None:
    A = rows(64, 9)
    A[3] *= 1.0 + 8.0 / 128.0
    row, mean = judge_lengths({"m": A}, LOW, 1e-5)
    assert not row.passed and row.index == (3,) and row.cause is None and row.error == pytest.approx(0.0625)
    assert mean.error == pytest.approx(0.0625 / 9.0) and mean.cause is None


def test_what_is_kept_in_float32_is_held_to_its_rounding() -> None:
    """1/sqrt(65) is no number of bfloat16: such an A was never rounded to it."""
    for factor, passed in ((1.0 + 1e-5, True), (1.0 + 3e-5, False)):
        assert all(v.passed is passed for v in judge_lengths({"m": rows(65, 3, factor)}, LOW, 2e-5))


def test_nothing_is_said_in_a_higher_precision_or_of_no_rows() -> None:
    for name in ("float64", "float32", "tf32"):
        assert judge_lengths({"m": rows(64, 3, 2.0)}, Precision.of(name), 1e-5) == []
    assert judge_lengths({"m": np.zeros((0, 8))}, LOW, 1e-5) == [] == judge_lengths({}, LOW, 1e-5)
    row, _ = judge_lengths({"m": np.zeros((1, 8))}, LOW, 1e-5)
    assert not row.passed and row.error == 1.0
