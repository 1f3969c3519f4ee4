"""AdamW's judge on a few numbers, with betas that are far from torch's: 1 % beta is 1 - beta above a half."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import FAIL, OWN_INPUTS, PASS, SKIP, Finding
from tlora_ref.oracle.stages.adamw import NAMES, _update, judge_adamw_step
from tlora_ref.oracle.stages.clipping import Clip
from tlora_ref.oracle.stages.updates import adamw_slips, update, weight_slips

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


def sides(held: dict[str, Any]) -> Any:
    """Of a candidate of four steps with rates 1/2, 1/4, 1/8, 1/16."""
    return SimpleNamespace(
        candidate=Held({"train/lr": 2.0 ** -np.arange(1.0, 5.0), **held}),
        train={**RUN, "steps": 4, "schedule": "constant", "warmup_ratio": 0.0, "max_grad_norm": None},
        switches=RULES["switches"],
        shown=lambda got: RULES["precision"],
        own=lambda stage, module, v: Finding(stage, OWN_INPUTS, module, v, PASS if v.passed else FAIL),
        skipped=lambda stage, module, why: Finding(stage, OWN_INPUTS, module, None, SKIP, why),
    )


def made(step: int, lr: float, m: float, v: float) -> tuple[np.ndarray, ...]:
    """B of 3 and these moments after a gradient of 2."""
    m1, v1 = one(0.25 * m + 0.75 * 2.0), one(0.375 * v + 0.625 * 4.0)
    return update(one(3.0), m1, v1, {**RUN, "step": step, "lr": lr}), m1, v1


def run(step: int, lr: float) -> dict[str, Any]:
    """What a candidate holds of a step."""
    held = {f"train/{step}/grad_B/m": one(2.0)}
    held |= {f"train/{step - 1}/{name}/m": one(x) for name, x in zip(NAMES, (3.0, 1.0, 5.0), strict=True)}
    return held | {f"train/{step}/{name}/m": x for name, x in zip(NAMES, made(step, lr, 1.0, 5.0), strict=True)}


def wrong(step: int, lr: float) -> list[str]:
    """What is wrong with a step that was made with this learning rate."""
    found = _update(sides(run(step, lr)), step, "B", "m", Clip())
    told = [(f.verdict.what, f.step) for f in found if f.verdict is not None]
    assert told == [(f"{x} of step {step}", step) for x in NAMES[1:] + NAMES[:1]]
    return [f.verdict.what.split()[0] for f in found if f.verdict is not None and f.status == FAIL]


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_step_is_made_with_its_own_learning_rate(step: int) -> None:
    assert wrong(step, 2.0**-step) == []
    for other in {1, 2, 3, 4} - {step}:
        assert wrong(step, 2.0**-other) == ["B"]


@pytest.mark.parametrize("left_out", [("exp_avg",), ("exp_avg_sq",), NAMES[1:]])
def test_without_both_moments_the_matrix_alone_is_judged(left_out: tuple[str, ...]) -> None:
    for lr, status in ((0.25, PASS), (0.5, FAIL)):
        held = {name: x for name, x in run(2, lr).items() if name not in {f"train/2/{each}/m" for each in left_out}}
        (found,) = _update(sides(held), 2, "B", "m", Clip())
        assert found.verdict is not None and (found.verdict.what, found.status) == ("B of step 2", status)
    for name in ("train/2/B/m", "train/1/B/m", "train/1/exp_avg/m"):
        held = {key: x for key, x in run(2, 0.25).items() if key != name}
        assert [f.status for f in _update(sides(held), 2, "B", "m", Clip())] == [SKIP]


def test_the_first_step_of_A_is_from_the_A_that_is_recorded() -> None:
    after = dict(zip(("A", "A_exp_avg", "A_exp_avg_sq"), made(1, 0.5, 0.0, 0.0), strict=True))
    held = {f"train/1/{name}/m": x for name, x in after.items()} | {"train/1/grad_A/m": one(2.0)}
    assert [f.status for f in _update(sides(held | {"A/m": one(3.0)}), 1, "A", "m", Clip())] == [PASS] * 3
    found = _update(sides(held | {"A/m": one(3.5)}), 1, "A", "m", Clip())
    assert [f.status for f in found] == [PASS, PASS, FAIL]
    assert [f.status for f in _update(sides(held), 1, "A", "m", Clip())] == [SKIP]
    # B begins at zero, of which nothing need be recorded; then A is no longer what it was
    first = dict(zip(NAMES, (x - 3.0 * 0.9375 * (i == 0) for i, x in enumerate(made(1, 0.5, 0.0, 0.0))), strict=True))
    held = {f"train/1/{name}/m": x for name, x in first.items()} | {"train/1/grad_B/m": one(2.0), "A/m": one(3.5)}
    assert [f.status for f in _update(sides(held), 1, "B", "m", Clip())] == [PASS] * 3
    second = {
        name.replace("/B/", "/A/").replace("/exp", "/A_exp").replace("grad_B", "grad_A"): x
        for name, x in run(2, 0.25).items()
    }
    assert [f.status for f in _update(sides(second | {"A/m": one(3.5)}), 2, "A", "m", Clip())] == [PASS] * 3
