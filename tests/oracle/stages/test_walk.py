"""What is a mistake of its stage, and what only follows from one before it: findings made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import changed
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.reports.finding import CASCADE, FAIL, GOLDEN, NOTE, OWN_INPUTS, PASS, SKIP, Finding
from tlora_ref.oracle.stages.walk import _in_time, _settled, _step_of
from tlora_ref.oracle.verdict import Verdict


def finding(stage: str, status: str = "", against: str = OWN_INPUTS, passed: bool = False, step: int | None = None):
    return Finding(stage, against, "m", Verdict(stage, "entries", passed), status, step=step)


@pytest.mark.parametrize("status", [PASS, FAIL, CASCADE])
def test_what_is_wrong_against_golden_alone_follows_from_a_mistake_that_reaches_it(status: str) -> None:
    for stage, before in product(ORDER, ORDER):
        earlier = [finding(before, status)]
        own, golden, right = (
            _settled(stage, [finding(stage, against=against, passed=passed)], earlier)[0].status
            for against, passed in ((OWN_INPUTS, False), (GOLDEN, False), (GOLDEN, True))
        )
        reaches = status == FAIL and before in ORDER[stage][1]
        assert (own, golden, right) == (FAIL, CASCADE if reaches else FAIL, PASS)
        for said in (SKIP, NOTE):
            (kept,) = _settled(stage, [replace(finding(stage, said), verdict=None)], earlier)
            assert kept.status == said


def test_what_is_wrong_at_any_module_or_before_it_reaches() -> None:
    both = [finding("covariance", PASS), finding("covariance", FAIL), finding("ranks", CASCADE)]
    assert _settled("A", [finding("A", against=GOLDEN)], both)[0].status == CASCADE
    assert _settled("sensitivity", [finding("sensitivity", against=GOLDEN)], both)[0].status == FAIL


@pytest.mark.parametrize(
    ("updates", "gradients", "follows"),
    [
        ([(2, FAIL)], [(3, FAIL)], True),
        ([(2, FAIL)], [(2, FAIL)], False),  # the gradient of a step comes before its update
        ([(2, FAIL)], [(1, FAIL)], False),
        ([(5, FAIL), (2, FAIL)], [(3, FAIL), (4, FAIL)], True),
        ([(2, FAIL)], [(3, FAIL), (1, FAIL)], False),
        ([(2, FAIL)], [(1, PASS), (3, FAIL)], True),
        ([(2, FAIL)], [(1, CASCADE), (3, FAIL)], True),
        ([(2, FAIL)], [(None, FAIL)], False),
        ([(2, CASCADE), (2, PASS)], [(3, FAIL)], False),
        ([(None, FAIL)], [(3, FAIL)], False),
        ([(None, FAIL), (2, FAIL)], [(3, FAIL)], True),
        ([], [(3, FAIL)], False),
    ],
)
def test_gradients_that_are_wrong_only_after_a_wrong_update_follow_from_it(
    updates: list[tuple[int | None, str]], gradients: list[tuple[int | None, str]], follows: bool
) -> None:
    found = [finding("gradient", status, step=step) for step, status in gradients]
    found += [finding("adamw", status, step=step) for step, status in updates]
    # of other stages, which change nothing
    found += [finding("merge", FAIL), finding("loss", FAIL, step=1), finding("A", FAIL, step=1)]
    settled = _in_time(found)
    for before, after in zip(found, settled, strict=True):
        turned = follows and before.stage == "gradient" and before.status == FAIL
        assert after == (replace(before, status=CASCADE) if turned else before)


def test_what_is_not_finite_has_its_step() -> None:
    for name, index, step in (
        ("train/3/B/m.0.1", (5, 1), 3),
        ("train/12/grad_B/m", (0, 0), 12),
        ("train/loss", (4,), 5),
        ("covariance/m.3", (0, 1), None),
        ("sample/2/loss", (), None),
    ):
        assert _step_of(name, index) == step


def test_a_nan_after_the_update_is_the_update_s(tmp_path: Path) -> None:
    """All that is made of it is NaN too: gradients and losses of the steps that follow."""
    tr.trace(tiny_llama(), tiny_samples(2), tmp_path / "g", r_init=2, steps=3)

    def spoilt(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        losses = np.where(np.arange(3) < 1, tensors["train/loss"], np.nan)
        after = re.compile(r"train/(1/B|2/(grad_B|B)|3/(grad_B|B))/.*")
        nan = {name: np.full_like(value, np.nan) for name, value in tensors.items() if after.fullmatch(name)}
        return tensors | nan | {"train/loss": losses}

    report = tr.compare(tmp_path / "g", changed(tmp_path / "g", tmp_path / "c", spoilt))
    assert report.first_failing == "adamw"
    wrong = [f for f in report.findings if f.stage == "gradient" and f.verdict and not f.verdict.passed]
    assert wrong and {f.status for f in wrong} == {CASCADE}
