"""How far rounding carries a step of AdamW: a few numbers, reckoned by hand, in a precision of few bits."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import SAFETY
from tlora_ref.oracle.stages.moments import Moments, corrections, step_with_errors, update_with_errors

RUN: dict[str, Any] = {"step": 2, "lr": 0.5, "betas": (0.25, 0.375), "eps": 0.25, "weight_decay": 0.125}
C1, C2 = 15 / 16, 55 / 64  # 1 - beta^2
TINY = 2.0**-14  # of what is called float16


def rough(storage: float, accumulation: float) -> Precision:
    return Precision("float16", np.dtype(np.float16), storage, 0.0, accumulation)


def test_an_update_from_moments_that_are_known() -> None:
    """m / c1 = 2 and v / c2 = 4, each off by 3/32 of it; and moments that are zero."""
    B, m, v = np.array([3.0, -1.0]), np.array([2.0 * C1, 0.0]), np.array([4.0 * C2, 0.0])
    after, allowed = update_with_errors(B, m, v, RUN, C2, rough(1 / 16, 1 / 32))
    np.testing.assert_allclose(after, [3.0 * 0.9375 - 0.5 * 2.0 / 2.25, -0.9375], rtol=1e-15)
    off = 3 / 32
    most = (2.0 * (1 + off) + TINY / C1) / (sqrt(4.0 * (1 - off) - TINY / C2) + 0.25)
    first = 0.5 * (most - 2.0 / 2.25 + 6 * off * most) + 2 * off * (3.0 + after[0]) + TINY
    second = 0.5 * (1 + 6 * off) * TINY / C1 / 0.25 + 2 * off * 1.9375 + TINY
    np.testing.assert_allclose(allowed, [first, second], rtol=1e-13)


def test_an_update_of_a_second_moment_that_was_rounded_to_nothing_may_be_smaller() -> None:
    """exp_avg / c1 = 2 over exp_avg_sq = 0, kept after the update: what it was may have been TINY, a root of 2^-7."""
    run = RUN | {"eps": 2.0**-10}
    m, v = np.array([2.0 * C1]), np.zeros(1)
    _, allowed = update_with_errors(np.zeros(1), m, v, run, C2, rough(0.0, 0.0))
    largest, least = 2.0 * 2.0**10, (2.0 - TINY / C1) / (sqrt(TINY / C2) + 2.0**-10)
    assert largest - least > 0.8 * largest
    np.testing.assert_allclose(allowed, [0.5 * (largest - least) + TINY], rtol=1e-9)


def test_a_step_from_moments_that_may_be_off() -> None:
    unit = SAFETY * 2.0**-10 + 2.0**-6
    before = Moments(
        (np.array([3.0, 1.0]), np.array([1.0, 4.0]), np.array([5.0, 0.0016])),
        (np.array([0.01, 0.02]), np.array([0.02, 0.0]), np.array([0.03, 0.04])),
    )
    grad, off = np.array([1.5, 0.0]), np.array([0.1, 0.0])
    found = step_with_errors(before, grad, off, RUN, rough(2.0**-6, 2.0**-10))
    m, v = [1.375, 1.0], [0.375 * 5.0 + 0.625 * 2.25, 0.0006]
    dm = [0.25 * 0.02 + 0.75 * 0.1 + unit * 1.375 + TINY, unit * 1.0 + TINY]
    dv = [0.375 * 0.03 + 0.625 * 0.1 * 3.1 + 2 * unit * v[0] + TINY, 0.375 * 0.04 + 2 * unit * v[1] + TINY]
    update = [m[i] / C1 / (sqrt(v[i] / C2) + 0.25) for i in (0, 1)]
    after = [3.0 * 0.9375 - 0.5 * update[0], 0.9375 - 0.5 * update[1]]
    # the first may be larger by more than it may be smaller; the second's v may be nothing, or many times what it is
    most = (m[0] + dm[0]) / C1 / (sqrt((v[0] - dv[0]) / C2) + 0.25)
    least = (m[1] - dm[1]) / C1 / (sqrt((v[1] + dv[1]) / C2) + 0.25)
    assert dv[1] > v[1] and update[1] - least > (m[1] + dm[1]) / C1 / 0.25 - update[1]
    digits = 2 * (unit + SAFETY * 2.0**-10 / C1) + unit + SAFETY * 2.0**-10 / C2 + 2 * unit
    dB = [
        0.01 + 0.5 * (most - update[0] + digits * update[0]) + 3 * unit * (3.0 + abs(after[0])) + TINY,
        0.02 + 0.5 * (update[1] - least + digits * update[1]) + 3 * unit * (1.0 + abs(after[1])) + TINY,
    ]
    for got, expected in zip((*found.values, *found.errors), (after, m, v, dB, dm, dv), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_moment_within_its_own_error_says_nothing_of_the_update_but_its_size() -> None:
    nothing = np.zeros(1)
    found = step_with_errors(Moments.zeros((1,)), np.array([0.5]), np.array([1.0]), RUN, rough(0.0, 0.0))
    most = 0.75 * 1.5 + TINY  # exp_avg of a gradient of 3/2; exp_avg_sq may be nothing
    update = 0.75 * 0.5 / C1 / (sqrt(0.625 * 0.25 / C2) + 0.25)
    assert found.values[0] == pytest.approx(-0.5 * update, rel=1e-14)
    np.testing.assert_allclose(found.errors[0], 0.5 * (most / C1 / 0.25 - update) + TINY, rtol=1e-12)
    assert (Moments.zeros((1,)).values, Moments.zeros((1,)).errors) == ((nothing,) * 3, (nothing,) * 3)


def test_one_minus_a_power_is_formed_in_the_sums_own_digits() -> None:
    assert corrections(0.5, 2, Precision.of("float64")) == [0.75]
    unit = 2.0**-23
    assert corrections(0.5, 2, Precision.of("float32")) == [0.75, 0.75 + unit / 2, 0.75, 0.75 - unit / 2]
    # a beta within a rounding of 1: no correction is nothing or less
    assert corrections(1.0 - 2.0**-24, 1, Precision.of("float32")) == [2.0**-24, 2.0**-23, 2.0**-24]


def test_in_float64_the_reference_s_own_rounding_stands_beside_the_candidate_s() -> None:
    unit, double = 2.0**-52, Precision.of("float64")
    _, allowed = update_with_errors(np.array([3.0]), np.array([0.0]), np.array([4.0]), RUN, C2, double)
    np.testing.assert_allclose(allowed, [2 * 3 * unit * (3.0 + 3.0 * 0.9375)], rtol=1e-9)
    found = step_with_errors(Moments.zeros((1,)), np.array([2.0]), np.zeros(1), RUN, double)
    np.testing.assert_allclose(found.errors[1], [(SAFETY * 2 * unit + unit) * 1.5], rtol=1e-9)
