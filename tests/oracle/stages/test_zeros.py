"""Entries that are cut to zero, counted."""

from __future__ import annotations

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.network import Network
from tlora_ref.oracle.stages.zeros import CUT, judge_zeros
from tlora_ref.oracle.verdict import Verdict


def judged(pairs: list[tuple[Array, Array]], dtype: str = "bfloat16") -> Verdict | None:
    return judge_zeros(Network({}, Precision.of(dtype)), "gradient", "the gradients", pairs)


def right(size: int = 400) -> Array:
    """Of root mean square 1: nothing below a thousandth of that but the last two."""
    found = np.where(np.arange(size) % 2 == 0, 1.0, -1.0)
    found[-2:] = 9e-4, 0.0
    return found


@pytest.mark.parametrize(("cut", "passed"), [(0, True), (2, True), (6, True), (7, False), (60, False)])
def test_one_entry_in_a_hundred_may_be_zero_beside_those_that_are_small(cut: int, passed: bool) -> None:
    """Of 400 entries 2 may be zero, and 4 more."""
    got = right()
    got[-1] = 1e-30  # what is small need not be zero
    got[:cut] = 0.0
    verdict = judged([(got[:100], right()[:100]), (got[100:], right()[100:])])
    assert verdict is not None and verdict.passed is passed
    assert verdict.error == pytest.approx(max(0, cut - 2) / 400.0) and verdict.allowed == 0.01
    assert (verdict.got, verdict.expected) == (cut / 400.0, 2 / 400.0)
    assert verdict.cause == (None if passed else CUT)


def test_what_float16_has_no_digits_for_may_be_zero() -> None:
    for size, passed in ((1e-5, True), (1e-3, False)):  # its smallest normal number is 6e-5
        verdict = judged([(np.zeros(400), np.full(400, size))], "float16")
        assert verdict is not None and verdict.passed is passed


def test_nothing_is_said_in_a_higher_precision_or_of_few_entries() -> None:
    pairs = [(np.zeros(400), right())]
    assert all(judged(pairs, dtype) is None for dtype in ("float64", "float32")) and judged([]) is None
    assert judged([(np.zeros(199), right(199))]) is None and judged([(np.zeros(200), right(200))]) is not None
