"""Scales on two modules: by how much they may be off, and alpha = r scale."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, OWN_INPUTS, PASS, Finding
from tlora_ref.oracle.stages import scales
from tlora_ref.oracle.verdict import Verdict

#: S of 1 and 3, shares of 1/4 and 3/4: with alpha 6 and r_init 2 the scales are 3/2 and 9/2, the alpha_i 3 and 9.
S = np.array([1.0, 3.0])


class Held(dict[str, Any]):
    has, get = dict.__contains__, dict.__getitem__


def sides(golden: dict[str, Any], candidate: dict[str, Any], own_S: bool = False, **switches: bool) -> Any:
    gold: Any = Held({f"sensitivity/{m}": x for m, x in zip("mn", S, strict=True)} | golden)
    gold.shapes, gold.modules = {"m": (4, 5), "n": (4, 5)}, lambda quantity: ["m", "n"]
    gold.manifest = SimpleNamespace(alpha=6.0, r_init=2)

    def finding(stage: str, against: str, module: str | None, verdict: Verdict) -> Finding:
        return Finding(stage, against, module, verdict, PASS)

    return SimpleNamespace(
        golden=gold,
        candidate=Held(candidate),
        rounding=2.0**-10,
        precision=SimpleNamespace(tiny=0.125),
        switches=replace(PROFILES["paper"], **switches),
        scores=lambda: (S, OWN_INPUTS if own_S else GOLDEN),
        finding=finding,
        own=lambda stage, module, verdict: finding(stage, OWN_INPUTS, module, verdict),
    )


def test_a_scale_is_off_by_its_share_and_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scales, "share_errors", lambda sides, found: np.array([0.01, 0.02]))
    golden = np.array([1.5, -4.5])
    found = scales._allowed(sides({}, {}), golden)
    rounding = 16 * 2.0**-10 * np.array([1.5, 4.5])
    np.testing.assert_allclose(found, np.array([0.12, 0.24]) / 2 + rounding + 0.125, rtol=1e-13)
    # rounded, alpha_i is off by whole numbers: 3 and 9 off by 0.12 by none, by 0.6 and 1.2 by one
    whole = scales._allowed(sides({}, {}, round_alpha=True), golden)
    np.testing.assert_allclose(whole, rounding + 0.125, rtol=1e-13)
    monkeypatch.setattr(scales, "share_errors", lambda sides, found: np.array([0.05, 0.1]))
    np.testing.assert_allclose(scales._allowed(sides({}, {}, round_alpha=True), golden), 0.5 + rounding + 0.125)


def test_alpha_is_off_by_eight_roundings() -> None:
    most = 8 * 2.0**-10 * 6.0
    for off, passed in ((0.0, True), (0.99 * most, True), (-0.99 * most, True), (1.01 * most, False)):
        (found,) = scales.alphas(sides({}, {"alpha/n": 6.0 + off, "rank/n": 4.0, "scale/n": 1.5}))
        assert found.verdict is not None and (found.module, found.verdict.passed) == ("n", passed)
    assert scales.alphas(sides({}, {"alpha/n": 6.0, "rank/n": 4.0})) == []
    (wrong,) = scales.alphas(sides({}, {"alpha/m": 3.0, "rank/m": 4.0, "scale/m": 1.5}))  # times 2, not 4
    assert wrong.verdict is not None and wrong.verdict.cause == "alpha is r_init * scale, not r_i * scale"


@pytest.mark.parametrize("own_S", [True, False])
def test_slips_are_tried_where_S_is_known(own_S: bool) -> None:
    """By the candidate's own S where it has it, else by golden's."""
    held = {"scale/m": 3.0, "scale/n": 3.0, "rank/m": 1.0, "rank/n": 3.0}  # plain LoRA's alpha / r_init
    given = sides({"scale/m": 1.5, "scale/n": 4.5}, held, own_S)
    given.precision, given.network = Precision.of("float64"), lambda *arguments: 0.0
    found = [f for f in scales.findings(given) if f.verdict is not None]
    assert [f.against for f in found] == ([OWN_INPUTS] if own_S else []) + [GOLDEN]
    plain = "plain LoRA's alpha / r_init for every module: the scales are not adapted"
    causes = [f.verdict.cause for f in found if f.verdict is not None]
    assert causes[0] == plain and causes[1:] == ([None] if own_S else [])


def test_alpha_near_a_half_may_be_rounded_either_way() -> None:
    """alpha_i of a budget of 12: 2.5 and 9.5 go to 2 or 3, 9 or 10; a budget of 1 has halves too."""
    rules: dict[str, Any] = {
        "switches": replace(PROFILES["paper"], round_alpha=True),
        "precision": Precision.of("float32"),
    }
    relative = 6.0 * (2**0.5 + 4.0) * (2.0**-23 + 2.0**-52) + 2.0**-23
    # relatively, and of 9.5 that is more: so near is it to a half
    for times, open_ in ((0.0, (True, True)), (2.0, (True, True)), (3.0, (False, True)), (12.0, (False, False))):
        off = times * relative
        scores = np.array([2.5 + off, 9.5 - off])
        right = (3.0, 9.0) if off else (2.0, 10.0)
        for alpha in ((2.0, 10.0), (3.0, 9.0), (2.0, 9.0), (3.0, 10.0)):
            found = scales.judge_scales(np.array(alpha) / 2.0, scores, 2, 6.0, **rules)
            expected = all(a == r or o for a, r, o in zip(alpha, right, open_, strict=True))
            assert found.passed is expected, (times, alpha)
    # of numbers below 1 the error is one of 1: a share of 1/2 of a budget of 1
    for off, either in ((0.5 * relative, True), (3.0 * relative, False)):
        scores = np.array([0.5 + off, 0.5 - off])
        found = scales.judge_scales(np.array([0.0, 0.5]), scores, 2, 0.5, **rules)
        assert found.passed is either
