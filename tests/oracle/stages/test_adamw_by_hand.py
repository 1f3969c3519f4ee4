"""AdamW's judge on a few numbers, with betas that are far from torch's: 1 % beta is 1 - beta above a half."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import FAIL, OWN_INPUTS, PASS, Finding
from tlora_ref.oracle.stages.adamw import NAMES, _update, adamw_slips, judge_adamw_step, update, weight_slips
from tlora_ref.oracle.stages.clipping import Clip

BETAS = (0.25, 0.375)
RUN: dict[str, Any] = {"step": 2, "lr": 0.5, "betas": BETAS, "eps": 0.25, "weight_decay": 0.125}
RULES: dict[str, Any] = {"switches": PROFILES["paper"], "precision": Precision.of("float64")}


def one(x: float) -> np.ndarray:
    return np.array([[x]])


def test_an_update_from_given_moments() -> None:
    # 1 - 1/16 and 1 - 9/64: m / c1 = 2, v / c2 = 4
    m, v = one(1.875), one(4 * 55 / 64)
    expected = 3.0 * (1 - 0.5 * 0.125) - 0.5 * 2.0 / (2.0 + 0.25)
    np.testing.assert_allclose(update(one(3.0), m, v, RUN), one(expected), rtol=1e-15)


def test_what_each_slip_would_give() -> None:
    B, m, v, g = one(3.0), one(1.0), one(5.0), one(2.0)
    slips = {name: {text: made() for text, made in table} for name, table in adamw_slips(B, m, v, g, **RUN).items()}
    m1, v1 = 0.25 + 0.75 * 2.0, 0.375 * 5.0 + 0.625 * 4.0
    assert slips["exp_avg"]["exp_avg is stored after bias correction"] == one(m1 / (15 / 16))
    assert slips["exp_avg_sq"]["exp_avg_sq is stored after bias correction"] == one(v1 / (55 / 64))
    assert slips["exp_avg_sq"]["exp_avg_sq keeps its largest value (AMSGrad)"] == one(5.0)
    folded = 2.0 + 0.125 * 3.0
    (l2,) = (made for text, made in slips["exp_avg"].items() if "L2" in text)
    assert l2 == one(0.25 + 0.75 * folded)
    (l2,) = (made for text, made in slips["exp_avg_sq"].items() if "L2" in text)
    assert l2 == one(0.375 * 5.0 + 0.625 * folded**2)
    # the same for B, from given moments
    of_B = {text: made() for text, made in weight_slips(B, g, one(m1), one(v1), RUN)}
    for text, t1, t2 in (
        ("exp_avg is not bias-corrected", None, 2),
        ("exp_avg_sq is not bias-corrected", 2, None),
        ("the step is counted from 0: bias correction is off by one", 1, 1),
        ("bias correction is one step ahead", 3, 3),
    ):
        mean, square = (x / (1 - beta**t if t else 1.0) for x, beta, t in ((m1, 0.25, t1), (v1, 0.375, t2)))
        expected = 3.0 * (1 - 0.0625) - 0.5 * mean / (np.sqrt(square) + 0.25)
        np.testing.assert_allclose(of_B[text], one(expected), rtol=1e-14, err_msg=text)
    first = dict(weight_slips(B, g, m, v, {**RUN, "step": 1}))
    assert np.isinf(first["the step is counted from 0: bias correction is off by one"]())  # no step 0


@pytest.mark.parametrize("size", [0.125, -3.0])
def test_moments_may_be_off_by_what_the_gradient_may(size: float) -> None:
    """By a hundredth: exp_avg by 3/4 and exp_avg_sq by 5/8 of what this makes of g and of g^2."""
    arrays = {"B": one(3.0), "grad": one(size), "exp_avg": one(1.0), "exp_avg_sq": one(5.0)}
    right = [0.25 + 0.75 * size, 0.375 * 5.0 + 0.625 * size**2]
    most = [0.75 * 0.01 * abs(size), 0.625 * (1.01**2 - 1.0) * size**2]
    for share, passes in ((0.99, True), (1.01, False)):
        for sign in (1.0, -1.0):
            m, v = (one(x + sign * share * off) for x, off in zip(right, most, strict=True))
            got = (update(one(3.0), m, v, RUN), m, v)
            verdicts = judge_adamw_step(got, **arrays, **RUN, **RULES, grad_error=0.01)
            assert [(x.what, x.passed) for x in verdicts] == [("exp_avg", passes), ("exp_avg_sq", passes), ("B", True)]


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get = dict.__contains__, dict.__getitem__


def wrong(step: int, lr: float) -> list[str]:
    """What is wrong with a step that was made with this learning rate, of a run of rates 1/2, 1/4, 1/8, 1/16."""
    B, m, v, g = one(3.0), one(1.0), one(5.0), one(2.0)
    m1, v1 = one(0.25 + 0.75 * 2.0), one(0.375 * 5.0 + 0.625 * 4.0)
    made = (update(B, m1, v1, {**RUN, "step": step, "lr": lr}), m1, v1)
    held = Held({"train/lr": 2.0 ** -np.arange(1.0, 5.0), f"train/{step}/grad_B/m": g})
    for name, before, after in zip(NAMES, (B, m, v), made, strict=True):
        held |= {f"train/{step - 1}/{name}/m": before, f"train/{step}/{name}/m": after}
    sides: Any = SimpleNamespace(
        candidate=held,
        train={**RUN, "steps": 4, "max_grad_norm": None},
        switches=RULES["switches"],
        shown=lambda got: RULES["precision"],
        own=lambda stage, module, v: Finding(stage, OWN_INPUTS, module, v, PASS if v.passed else FAIL),
    )
    found = _update(sides, step, "B", "m", Clip())
    assert [(f.verdict.what, f.step) for f in found] == [(f"{x} of step {step}", step) for x in NAMES[1:] + NAMES[:1]]
    return [f.verdict.what.split()[0] for f in found if f.status == FAIL]


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_step_is_made_with_its_own_learning_rate(step: int) -> None:
    assert wrong(step, 2.0**-step) == []
    for other in {1, 2, 3, 4} - {step}:
        assert wrong(step, 2.0**-other) == ["B"]
