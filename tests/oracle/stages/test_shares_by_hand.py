"""The bounds on shares, number by number: a matrix of four rows, and losses whose errors are known."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.network import Network
from tlora_ref.oracle.stages.shares import _blamed, _verdict, judge_part, judge_parts, judge_sum
from tlora_ref.oracle.traces.shares import DIAGONAL, OFF

#: A diagonal of twos, all else ones: of norms sqrt(28), its parts 4 and sqrt(12); and 16 entries, the fewest.
C = np.ones((4, 4)) + np.eye(4)
KEPT = 2.0**-7  # what storing in bfloat16 rounds


def network(tables: Mapping[str, Mapping[str, float]], dtype: str = "bfloat16") -> Network:
    return Network({"bfloat16": tables}, Precision.of(dtype))


def test_one_module_is_held_to_two_and_a_half_times_its_noise() -> None:
    relative = network({"covariance, relative": {"m": 0.02}})
    diagonal, off = judge_part(relative, "covariance", "m", C + 0.25 * np.eye(4), C)
    noise = 2.5 * 0.02 * math.sqrt(28.0)
    assert (diagonal.what, off.what) == (f"share of what is {DIAGONAL}", f"share of what is {OFF}")
    assert [v.allowed for v in (diagonal, off)] == pytest.approx(
        [noise / 4.0 + KEPT, noise / math.sqrt(12.0) + KEPT], rel=1e-12
    )
    assert (diagonal.error, diagonal.got, diagonal.expected, off.error) == (0.125, 1.125, 1.0, 0.0)
    assert diagonal.detects == diagonal.allowed and not diagonal.passed and off.passed
    assert diagonal.fits == (("C is damped: its diagonal alone is too large", 0.0),) and off.cause is None
    (less, _) = judge_part(relative, "covariance", "m", C - 0.25 * np.eye(4), C)
    assert (less.error, less.got) == (0.125, 0.875)
    # what bfloat16 does not hold was kept in a finer one: float32
    (fine, _) = judge_part(relative, "covariance", "m", C + 0.001, C)
    assert fine.allowed == pytest.approx(noise / 4.0 + 2.0**-23, rel=1e-12)
    (half, _) = judge_part(network({"covariance, relative": {"m": 0.02}}, "float16"), "covariance", "m", C, C)
    assert half.allowed == pytest.approx(noise / 4.0 / 8.0 + 2.0**-10, rel=1e-12)
    lucky = judge_part(network({"covariance, relative": {"m": 1e-5}}), "covariance", "m", C + 0.001, C)
    assert [v.allowed for v in lucky] == pytest.approx([0.75 * 2.0**-7 + 2.0**-23] * 2, rel=1e-12)


@pytest.mark.parametrize("tokens", [20, 2000])
def test_a_norm_whose_factor_is_stored_is_right_however_many_tokens_there_are(tokens: int) -> None:
    """Their mean square is 1 + 2^-7, whose root lies between two numbers of bfloat16: all are rounded down to 1."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(tokens, 64))
    X /= np.sqrt((X**2).mean(axis=1, keepdims=True))  # normed as they should be
    right, stored = X.T @ X, X.T @ X * (1.0 + 2.0**-7)
    still = {f"covariance, {part}": {"a": 0.0, "b": 0.0} for part in (DIAGONAL, OFF)}
    for off, passes in ((0.5 * (right + stored), True), (stored + (stored - right), False)):  # of half of the modules
        verdicts = judge_parts(network(still), "covariance", dict.fromkeys("ab", (off, right)))
        assert [v.passed for v in verdicts] == [passes] * 2


@pytest.mark.parametrize(
    ("of_diagonal", "of_off", "named"),
    [
        (0.07, 0.020, True),  # three tenths of 0.07 are 0.021
        (0.07, 0.022, False),
        (0.5, 0.022, True),  # and three tenths of what the other part is allowed, 0.0764, are 0.0229
        (0.5, 0.024, False),
    ],
)
def test_a_cause_is_named_where_the_other_part_is_nearly_right(of_diagonal: float, of_off: float, named: bool) -> None:
    got = C + 2.0 * of_diagonal * np.eye(4) + of_off * (C - 2.0 * np.eye(4))
    wrong, right = judge_part(network({"covariance, relative": {"m": 0.02}}), "covariance", "m", got, C)
    assert not wrong.passed and right.passed and right.cause is None
    assert [share for _, share in wrong.fits] == (pytest.approx([of_off / of_diagonal], rel=1e-9) if named else [])


def test_the_mean_of_all_modules_is_held_to_three_and_a_half_times_their_root_mean_square() -> None:
    tables = {f"covariance, {DIAGONAL}": {"a": 0.003, "b": -0.004, "c": 9.0}, f"covariance, {OFF}": {"a": 0.1}}
    pairs = {"a": (C + 0.25 * np.eye(4), C), "b": (C - 0.125 * np.eye(4), C), "unmeasured": (9.0 * C, C)}
    (diagonal,) = judge_parts(network(tables), "covariance", pairs)  # off the diagonal one module has noise
    assert diagonal.what == f"share of what is {DIAGONAL}, mean of all modules"
    assert diagonal.allowed == pytest.approx(3.5 * math.sqrt((9e-6 + 16e-6) / 2.0) + KEPT, rel=1e-12)
    assert diagonal.error == pytest.approx((0.125 - 0.0625) / 2.0, rel=1e-12) and diagonal.got == 1.0 + diagonal.error
    # the coarsest of what was kept; and never less than three quarters of a rounding
    fine = {"a": (C + 0.001, C), "b": pairs["b"]}
    still = {f"covariance, {DIAGONAL}": {"a": 0.0, "b": 0.0}}
    (mixed,) = judge_parts(network(still), "covariance", fine)
    assert mixed.allowed == pytest.approx(0.75 * 2.0**-7 + KEPT, rel=1e-12)
    (finer,) = judge_parts(network(still), "covariance", dict.fromkeys("ab", (C + 0.001, C)))
    assert finer.allowed == pytest.approx(0.75 * 2.0**-7 + 2.0**-23, rel=1e-12)
    (half,) = judge_parts(network(still, "float16"), "covariance", dict.fromkeys("ab", (C, C)))
    assert half.allowed == pytest.approx(0.75 * 2.0**-10 + 2.0**-10, rel=1e-12)
    (off,) = judge_parts(network({f"covariance, {OFF}": {"a": 0.0, "b": 0.0}}), "covariance", pairs)
    assert off.what == f"share of what is {OFF}, mean of all modules"
    small = {m: (x[:3, :3], y[:3, :3]) for m, (x, y) in pairs.items()}
    assert judge_parts(network(tables), "covariance", small) == []  # nine entries


def test_a_sum_is_held_to_four_times_what_its_terms_or_the_sum_itself_were_off() -> None:
    relative = {"x": 0.03, "y": 0.01}
    pairs = {"x": (np.float64(4.25), np.float64(4.0)), "y": (np.float64(-11.0), np.float64(-12.0)), "z": (9.0, 1.0)}
    for together, noise in ((0.001, math.hypot(0.12, 0.12) / 16.0), (0.02, 0.02)):
        tables = {"loss, relative": relative, "loss, sum": {"sum": together}}
        (verdict,) = judge_sum(network(tables), "sum", "loss", pairs)
        assert verdict.allowed == pytest.approx(4.0 * noise + KEPT, rel=1e-12)
        assert (verdict.error, verdict.got) == (1.25 / 16.0, 1.0 + 1.25 / 16.0)
        assert (verdict.stage, verdict.what) == ("loss", "sum")
        (half,) = judge_sum(network(tables, "float16"), "sum", "loss", pairs)
        assert half.allowed == pytest.approx(4.0 * noise / 8.0 + 2.0**-10, rel=1e-12)
    still = {k: (np.float64(0.0), np.float64(0.0)) for k in "xy"}
    (nothing,) = judge_sum(network(tables), "sum", "loss", still)
    assert nothing.passed and nothing.error == 0.0


def test_what_is_as_far_off_as_is_allowed_is_right() -> None:
    assert [_verdict("loss", "sum", off, 0.5).passed for off in (-0.75, -0.5, 0.5, 0.75)] == [False, True, True, False]
    wrong, right = _verdict("covariance", "diagonal", 2.0, 1.0), _verdict("covariance", "other", 0.3, 1.0)
    assert (
        _blamed([wrong, right])[0].cause and not _blamed([wrong, _verdict("covariance", "other", 0.31, 1.0)])[0].cause
    )
