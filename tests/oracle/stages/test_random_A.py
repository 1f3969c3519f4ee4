"""A random A on a few numbers: another draw or not, within its bound, of its distribution, and else how it was made."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.ablation import _drawn_otherwise, is_another_draw, judge_draws, judge_random

LOW = Precision.of("bfloat16")  # rounds by 2^-7 of a number
SPREAD = 7 / sqrt(1000)  # of a thousand entries


def test_an_A_that_is_near_is_meant_to_be_the_golden_one() -> None:
    golden = np.array([[3.0, 0.0], [0.0, -4.0]])
    for off, another in ((2.49, False), (2.51, True), (-2.49, False), (-2.51, True)):
        assert is_another_draw(golden + np.array([[0.0, off], [0.0, 0.0]]), golden) is another
    assert not is_another_draw(golden.copy(), golden) and is_another_draw(golden[:1], golden)
    assert is_another_draw(-golden, golden) and is_another_draw(0.0 * golden, golden)


def test_the_golden_A_is_held_as_it_is_stored() -> None:
    golden = np.array([[0.5, -0.25], [0.125, 0.0]])
    for share, passed in ((0.9, True), (1.1, False)):
        verdict = judge_random(golden * (1 + share * 2.0**-7), golden, LOW)
        assert verdict.passed is passed and verdict.what == "the golden random A"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_entry_of_a_draw_lies_beyond_its_bound(sign: float) -> None:
    for most, passed in ((0.25, True), (0.5, True), (0.5 * (1 + 2.0**-7), True), (0.5 * (1 + 2.0**-6), False)):
        A = np.array([[0.1, -0.2, 0.0, 0.1], [0.2, 0.1, sign * most, -0.1]])  # d_in 4: a half
        verdict = judge_random(A, None, LOW)
        assert (verdict.passed, verdict.error, verdict.allowed) == (passed, most, 0.5 * (1 + 2.0**-7))
        assert (verdict.index, verdict.got, verdict.expected) == ((1, 2), most, 0.5)
        assert (verdict.cause is None) is passed  # of eight entries the spread is so wide that it may be any


def around(mean: float, square: float) -> list[np.ndarray]:
    """Two A, (5, 100) and (20, 25), whose entries have this mean and mean square in units of 1 / sqrt(d_in)."""
    x = mean + sqrt(square - mean**2) * np.resize([1.0, -1.0], 500)
    return [x.reshape(5, 100) / 10.0, x.reshape(20, 25) / 5.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("share", "passed"), [(0.99, True), (1.01, False)])
def test_a_mean_over_all_draws_is_off_by_seven_deviations_at_most(sign: float, share: float, passed: bool) -> None:
    for drawn in (
        around(sign * share * 7 / sqrt(3 * 1000), 1 / 3),  # a uniform number's variance is 1/3
        around(0.0, 1 / 3 + sign * share * 7 * sqrt(4 / 45) / sqrt(1000)),  # its square's is 1/5 - 1/9
    ):
        verdict = judge_draws(drawn)
        assert verdict.passed is passed and verdict.error == pytest.approx(7 * share) and verdict.allowed == 7.0
    assert judge_draws(around(0.0, 1 / 3)).error == pytest.approx(0.0, abs=1e-12)


def test_the_largest_of_the_draws_tells_how_they_were_made() -> None:
    small, large = np.ones((1, 4)), np.zeros((30, 40))
    assert "changed places" in str(judge_draws([small, large]).cause)
    assert judge_draws([large[:1], 5.0 * small.repeat(500, 1)]).cause is None


def alike(size: float, most: float | None = None) -> np.ndarray:
    """(4, 250) of entries of one size, but for one."""
    A = np.full((4, 250), size)
    A[1, 3] = size if most is None else most
    return A


def test_how_an_A_was_made_that_is_not_uniform() -> None:
    assert "changed places" in str(_drawn_otherwise(np.zeros((2, 4))))
    for off, known in ((0.9e-3, True), (1.1e-3, False), (-0.9e-3, True), (-1.1e-3, False)):
        A = 0.0 + np.eye(2, 4)
        A[1, 1] = sqrt(1 + off)
        assert ("orthonormal" in str(_drawn_otherwise(A))) is known
    for share, known in ((0.9, True), (1.1, False), (-0.9, True), (-1.1, False)):
        assert ("a = 0" in str(_drawn_otherwise(alike(sqrt(2 / 250) * (1 + share * SPREAD))))) is known
        assert ("1 / r" in str(_drawn_otherwise(alike(0.25 * (1 + share * SPREAD))))) is known
    for most, known in ((0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):  # no entry beyond sqrt(6 / d_in)
        assert ("a = 0" in str(_drawn_otherwise(alike(sqrt(2 / 250), most * sqrt(6 / 250))))) is known
