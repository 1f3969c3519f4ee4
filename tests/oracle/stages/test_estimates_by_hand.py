"""What is read off a wrong moment or matrix of a few numbers: each case is a old + c new."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.stages.estimates import NEAR, _two, of_moment, of_weight, or_fitted
from tlora_ref.oracle.verdict import Verdict

OLD, NEW = np.array([[1.0, -2.0, 3.0]]), np.array([[2.0, 1.0, -1.0]])
FIRST, SECOND = ("exp_avg", 0.75), ("exp_avg_sq", 0.875)


@pytest.mark.parametrize(
    ("moment", "a", "c", "said"),
    [
        (FIRST, 0.5, 0.5, "beta1 is 0.5, not 0.75"),
        (SECOND, 0.5, 0.5, "beta2 is 0.5, not 0.875"),
        (FIRST, 0.0, 0.25, "exp_avg is forgotten between the steps"),
        (FIRST, 0.9 * NEAR, 0.25, "exp_avg is forgotten between the steps"),
        (FIRST, -0.9 * NEAR, 0.25, "exp_avg is forgotten between the steps"),
        (FIRST, 1.1 * NEAR, 0.25, "exp_avg is 0.0022 times the old one and 0.25 times the gradient"),
        (FIRST, 0.0, 0.25 * (1 + 1.1 * NEAR), "exp_avg is 0 times the old one and 0.251 times the gradient"),
        (SECOND, 0.25, 0.25, "exp_avg_sq is 0.25 times the old one and 0.25 times the gradient squared"),
        (FIRST, 1.0, 1.0, "exp_avg is summed up, without beta1"),
        (SECOND, 1.0, 1.0, "exp_avg_sq is summed up, without beta2 (Adagrad)"),
        (FIRST, 1.0, 0.5, "exp_avg is 1 times the old one and 0.5 times the gradient"),
        (FIRST, 0.75, 0.5, "the gradient is used 2 times"),
        (SECOND, 0.875, 0.5, "the gradient is used 2 times"),  # its square four times
        (FIRST, 0.75, -0.5, "exp_avg is 0.75 times the old one and -0.5 times the gradient"),
        (FIRST, 0.5 + 0.45 * NEAR, 0.5, "beta1 is 0.501, not 0.75"),  # a share of c
        (FIRST, 0.5 - 0.45 * NEAR, 0.5, "beta1 is 0.499, not 0.75"),
        (FIRST, 0.5 + 0.55 * NEAR, 0.5, "exp_avg is 0.501 times the old one and 0.5 times the gradient"),
        (FIRST, 2.0, -1.0, "beta1 is 2, not 0.75"),
        (("exp_avg", 0.25), 0.25, 1.5, "the gradient is used 2 times"),
        (("exp_avg", 0.25), 0.0, 0.75, "exp_avg is forgotten between the steps"),
    ],
)
def test_weights_of_the_old_and_the_new_are_told(moment: tuple[str, float], a: float, c: float, said: str) -> None:
    name, beta = moment
    ((text, made),) = of_moment(name, a * OLD + c * NEW, OLD, NEW, beta)
    told = re.sub(r"-?\d[.\d]*e-\d\d", "0", text)  # what rounding leaves of nothing
    assert told == said
    np.testing.assert_allclose(made(), a * OLD + c * NEW, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("moment", "c", "said"),
    [
        (FIRST, 0.5, ["beta1 is 0.5, not 0.75", "the gradient is used 2 times"]),
        (SECOND, 0.5, ["beta2 is 0.5, not 0.875", "the gradient is used 2 times"]),
        (FIRST, 1.5, ["the gradient is used 6 times"]),
        (FIRST, 1.0, ["the gradient is used 4 times"]),
        (FIRST, -0.5, []),
        (FIRST, 0.0, []),
    ],
)
def test_of_a_first_step_the_new_alone_is_told(moment: tuple[str, float], c: float, said: list[str]) -> None:
    name, beta = moment
    found = of_moment(name, c * NEW, 0.0 * OLD, NEW, beta)
    assert [text for text, _ in found] == said
    for _, made in found:
        np.testing.assert_allclose(made(), c * NEW, rtol=1e-12)
    assert of_moment(name, np.array([[np.inf, 0.0, 0.0]]), OLD, NEW, beta) == []


RUN: dict[str, Any] = {"step": 2, "lr": 0.5, "betas": (0.25, 0.375), "eps": 1e-8, "weight_decay": 0.125}
M, V = np.array([[1.0, -2.0, 0.5]]), np.array([[4.0, 1.0, 0.25]])
DIRECTION = M / (15 / 16) / (np.sqrt(V / (55 / 64)) + 1e-8)


def read(kept: float, moved: float, B: np.ndarray = OLD, **changes: Any) -> list[str]:
    """What is said besides the values of eps."""
    found = of_weight(kept * B - moved * DIRECTION, B, M, V, {**RUN, **changes})
    *eps, (text, made) = found
    assert len(eps) == 7 and all("eps is" in said for said, _ in eps)
    np.testing.assert_allclose(made(), kept * B - moved * DIRECTION, rtol=1e-12, atol=1e-14)
    return text.split(", the weight")


def test_settings_are_read_off_a_matrix() -> None:
    assert read(1 - 0.5 * 0.25, 0.5) == ["the weight decay is 0.25, not 0.125"]
    assert read(1 - 0.5 * 1.25, 0.5) == ["the weight decay is 1.25, not 0.125"]
    assert read(1 - 0.25 * 0.125, 0.25) == ["the learning rate is 0.5 times what it should be"]
    assert read(1 - 0.25 * 0.5, 0.25) == ["the update is 0.5 times what it should be", " decay 0.25, not 0.125"]
    assert read(1.0, 0.25, B=0.0 * OLD) == ["the learning rate is 0.5 times what it should be"]  # nothing to decay
    for share, text in ((0.9, "the learning rate is 0.5"), (1.1, "the update is 0.5"), (-0.9, "the learning rate")):
        assert read(1 - 0.25 * 0.125 * (1 + share * NEAR), 0.25)[0].startswith(text)
    # without decay a share of the rate, twice
    assert read(1.0 - 0.25 * 0.9 * NEAR**2, 0.25, weight_decay=0.0)[0].startswith("the learning rate is 0.5")
    assert read(1.0 - 0.25 * 1.1 * NEAR**2, 0.25, weight_decay=0.0)[0].startswith("the update is 0.5")
    assert read(1.0 - 0.5 * 0.5, 0.5 * (1 + 0.9 * NEAR)) == ["the weight decay is 0.5, not 0.125"]
    assert read(1.0 - 0.5 * 0.5, 0.5 * (1 + 1.1 * NEAR))[0].startswith("the update is")


def test_other_values_of_eps_are_tried() -> None:
    found = of_weight(OLD, OLD, M, V, {**RUN, "eps": 1e-6, "lr": 0.0})  # at a rate of 0 nothing else is told
    assert [text for text, _ in found] == [f"eps is {e:g}, not 1e-06" for e in (1e-4, 1e-5, 1e-7, 1e-10, 1e-12, 1e-16)]
    made = dict(of_weight(OLD, OLD, M, V, RUN))["eps is 0.0001, not 1e-08"]()
    expected = OLD * (1 - 0.0625) - 0.5 * M / (15 / 16) / (np.sqrt(V / (55 / 64)) + 1e-4)
    np.testing.assert_allclose(made, expected, rtol=1e-14)


def test_two_weights_need_three_numbers_that_are_finite() -> None:
    for scale in (1.0, 1e200, 1e-200):
        assert _two(scale * (2.0 * OLD - 3.0 * NEW), scale * OLD, NEW) == pytest.approx((2.0, -3.0 * scale), rel=1e-9)
    assert _two(3.0 * NEW, 0.0 * OLD, NEW) == pytest.approx((0.0, 3.0))
    assert _two(3.0 * OLD, OLD, 0.0 * NEW) == pytest.approx((3.0, 0.0))
    assert _two(0.0 * OLD, OLD, NEW) == pytest.approx((0.0, 0.0))
    assert _two(OLD, 0.0 * OLD, 0.0 * NEW) == (None, None)
    assert _two(OLD[:, :2], OLD[:, :2], NEW[:, :2]) == (None, None)
    assert _two(np.array([[3.0, 3.0]]), np.zeros((1, 2)), np.array([[1.0, 1.0]])) == pytest.approx((0.0, 3.0))
    assert _two(OLD[:, :1], OLD[:, :1], NEW[:, :1]) == (None, None)
    assert _two(np.array([[3.0]]), np.zeros((1, 1)), np.array([[1.0]])) == (None, None)
    assert _two(np.array([[1.0, np.inf, 0.0]]), OLD, NEW) == (None, None)
    assert _two(1e300 * OLD, 1e-300 * OLD, NEW) == (None, None)  # a weight that is no number any more


def test_a_fitted_slip_comes_after_what_is_known() -> None:
    got, expected, allowed = np.array([2.0, 3.0]), np.array([1.0, 2.0]), np.full(2, 0.01)
    wrong = Verdict("adamw", "B", False).blamed([("known", 0.0)])
    told = or_fitted(wrong, got, expected, allowed, lambda array: [("fitted", lambda: array), ("none", lambda: -array)])
    assert told.fits == (("known", 0.0), ("fitted", 0.01)) and told.cause == "known"
    right = Verdict("adamw", "B", True)
    assert or_fitted(right, got, expected, allowed, lambda array: [("fitted", lambda: array)]) is right
    assert or_fitted(wrong, "no array", expected, allowed, lambda array: [("fitted", lambda: array)]) is wrong
