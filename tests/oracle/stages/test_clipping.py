"""Clipping and learning rates of a step: two gradients of norms 3 and 4, together 5."""

from __future__ import annotations

from math import sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import FAIL, OWN_INPUTS, PASS, Finding
from tlora_ref.oracle.stages.clipping import Clip, clip_of, other_updates, rates, scheduled

G = np.array([[3.0, 0.0]])
ROUGH = Precision("rough", np.dtype(np.float32), 2.0**-10, 0.0, 2.0**-12)
#: Four roundings to the storage, and the sum of three squares.
ERROR = 4 * 2.0**-10 + 6 * (sqrt(3) + 1) * (2.0**-12 + 2.0**-52)


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get = dict.__contains__, dict.__getitem__


def sides(most: float | None, held: dict[str, Any] | None = None, **train: Any) -> Any:
    grads = {"train/2/grad_B/m": G, "train/2/grad_B/n": np.array([[-4.0]])}
    constant = {"schedule": "constant", "warmup_ratio": 0.0, "lr": 0.5, "steps": 3, "max_grad_norm": most}
    return SimpleNamespace(
        train=constant | train,
        letters="B",
        adapted=["m", "n"],
        candidate=Held(grads if held is None else held),
        shown=lambda arrays: ROUGH,
        unit=2.0**-10,
        own=lambda stage, module, v: Finding(stage, OWN_INPUTS, module, v, PASS if v.passed else FAIL),
    )


def test_a_step_is_clipped_by_the_norm_of_all_its_gradients() -> None:
    assert clip_of(sides(None), 2) == Clip() and Clip() == Clip(1.0, 0.0, 0.0, 0.0, 0.0)
    assert clip_of(sides(2.0, {"train/2/grad_B/m": G}), 2) is None and clip_of(sides(2.0), 1) is None
    found = clip_of(sides(2.0), 2)
    assert found is not None and (found.norm, found.largest, found.norms) == (5.0, 4.0, 7.0)
    assert found.factor == pytest.approx(2.0 / 5.000001, rel=1e-12) and found.error == pytest.approx(ERROR, rel=1e-12)
    for share, error in ((0.9, ERROR), (1.1, 0.0)):  # a limit that rounding may or may not reach
        near = clip_of(sides(5.0 * (1 + share * ERROR)), 2)
        assert near is not None and near.factor == 1.0 and near.error == pytest.approx(error, rel=1e-12)
    small = clip_of(sides(2.0, {"train/2/grad_B/m": G / 8, "train/2/grad_B/n": np.array([[0.5]])}), 2)
    assert small is not None and (small.norm, small.largest, small.factor) == (0.625, 0.5, 1.0)
    case = sides(2.0)
    case.shown = lambda arrays: Precision.of("float64")  # the reference's own sums stand beside the candidate's
    double = clip_of(case, 2)
    assert double is not None
    assert double.error == pytest.approx(4 * 2.0**-52 + 6 * (sqrt(3) + 1) * 2.0**-51, rel=1e-12)
    with pytest.raises(AttributeError):
        found.norm = 0.0  # type: ignore[misc]


def test_rates_follow_the_schedule_of_the_whole_run() -> None:
    linear = {"schedule": "linear", "lr": 0.5}
    np.testing.assert_allclose(scheduled(sides(None, **linear, steps=4), 3), [0.5, 0.375, 0.25], rtol=1e-15)
    np.testing.assert_allclose(scheduled(sides(None, **linear, steps=None), 2), [0.5, 0.25], rtol=1e-15)
    for share, status in ((0.97, PASS), (1.03, FAIL), (-0.97, PASS), (-1.03, FAIL)):
        off = np.array([0.0, share * 8 * 2.0**-10 * 0.5, 0.0])  # of the largest rate
        got = np.array([0.5, 0.375, 0.25]) + off
        found = rates(sides(None, {"train/lr": got}, **linear, steps=4))
        assert found.status == status and found.verdict is not None and found.verdict.what == "learning rates"


def test_what_slips_with_clipping_make_of_a_gradient() -> None:
    grad = np.array([[3.0, 0.5]])
    clip = Clip(norm=5.0, largest=4.0, norms=7.0)
    made: dict[str, list[Any]] = {}
    for text, change in other_updates(sides(2.0, {"train/lr": np.array([0.5])}), 1, grad, clip):
        made.setdefault(text, []).append(change["grad"])
    by_norm, root = "the gradient is clipped by the {}, not by the norm", sqrt(9.25)
    expected = {
        "the gradient is not clipped": [1.0],
        "each matrix is clipped by its own norm": [2.0 / (root + 1e-6)],
        "the gradient is clipped to norm 1, not to max_grad_norm": [1.0 / 5.000001],
        "the gradient is clipped to twice max_grad_norm": [4.0 / 5.000001],
        "PyTorch's 1e-6 beside the norm is left out": [2.0 / 5.0],
        "the gradient is scaled to max_grad_norm where it is shorter too": [2.0 / 5.0],
        by_norm.format("squared norm"): [2.0 / 25.000001, 2.0 / 25.0],
        by_norm.format("largest entry"): [2.0 / 4.000001, 2.0 / 4.0],
        by_norm.format("sum of the norms"): [2.0 / 7.000001, 2.0 / 7.0],
    }
    (entrywise,) = made.pop("the gradient is clipped entry by entry")
    assert entrywise.tolist() == [[2.0, 0.5]] and made.keys() == expected.keys()
    for text, factors in expected.items():
        np.testing.assert_allclose(made[text], [factor * grad for factor in factors], rtol=1e-12, err_msg=text)
    # of gradients that are zero nothing is divided, and what is shorter is left as it is
    zero = dict(other_updates(sides(2.0, {"train/lr": np.array([0.5])}), 1, 0 * grad, Clip()))
    assert not any(part in text for text in zero for part in ("not by the norm", "shorter too", "1e-6"))
    short = [
        x for _, x in other_updates(sides(9.0, {"train/lr": np.array([0.5])}), 1, grad, Clip(1.0, 0.0, 0.5, 0.5, 0.5))
    ]
    np.testing.assert_array_equal(short[-1]["grad"], grad)
    left_out = dict(other_updates(sides(9.0, {"train/lr": np.array([0.5])}), 1, grad, Clip(norm=0.5)))
    np.testing.assert_array_equal(left_out["PyTorch's 1e-6 beside the norm is left out"]["grad"], grad)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (1, {"step after": 0.25}),
        (2, {"step before": 0.5, "step after": 0.125, "first step": 0.5}),
        (3, {"step before": 0.25, "first step": 0.5}),
    ],
)
def test_the_rates_of_other_steps_are_slips(step: int, said: dict[str, float]) -> None:
    recorded = sides(None, {"train/lr": np.array([0.5, 0.25, 0.125])})
    planned = sides(None, {}, schedule="linear", steps=3)
    by_plan = {"step before": {2: 0.5, 3: 1 / 3}, "step after": {1: 1 / 3, 2: 1 / 6}, "first step": {2: 0.5, 3: 0.5}}
    for case, expected in ((recorded, said), (planned, {k: v[step] for k, v in by_plan.items() if step in v})):
        told = other_updates(case, step, G, Clip())
        by_settings = [change for text, change in told if "of the settings" in text]
        assert by_settings == ([{"lr": 0.5}] if case is recorded and step > 1 else [])  # a constant 1/2
        found = [(text, change) for text, change in told if "of the settings" not in text]
        assert [text.split("of the ")[1] for text, _ in found] == list(expected)
        assert [change["lr"] for _, change in found] == pytest.approx([expected[k] for k in expected])
    fewer = other_updates(sides(None, {"train/lr": np.array([0.5])}), 3, G, Clip())  # than steps were made
    assert [(text.split("of the ")[1], change) for text, change in fewer] == [("first step", {"lr": 0.5})]
    assert [x["lr"] for _, x in other_updates(sides(None, {}, steps=None), step, G, Clip())] == [0.5] * (step > 1) * 2
