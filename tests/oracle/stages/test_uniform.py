"""Ranks and scales of runs that do not adapt them, on two modules of which one has room for a rank of two."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.reports.finding import FAIL, OWN_INPUTS, PASS, SKIP, Finding
from tlora_ref.oracle.stages.ablation import ranks_of, scales_of

SHAPES = {"m": (8, 8), "n": (2, 5)}
UNIT = 2.0**-10


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get, shapes = dict.__contains__, dict.__getitem__, SHAPES

    def modules(self, kind: str) -> list[str]:
        return [name.removeprefix(f"{kind}/") for name in self if name.startswith(f"{kind}/")]


def of(kind: str, m: float, n: float) -> dict[str, float]:
    return {f"{kind}/m": m, f"{kind}/n": n}


def sides(golden: dict[str, float], candidate: dict[str, float], rule: str = "alpha/r_init") -> Any:
    """Of a run with r_init 3 and alpha 7."""
    gold: Any = Held(golden)
    gold.manifest = SimpleNamespace(adapt_rank=False, adapt_scale=False, r_init=3, alpha=7.0, uniform_scale=rule)
    return SimpleNamespace(
        golden=gold,
        candidate=Held(candidate),
        switches=PROFILES["paper"],
        rounding=UNIT,
        scores=lambda: (np.array([1.0, 3.0]), OWN_INPUTS),
        own=lambda stage, module, v: Finding(stage, OWN_INPUTS, module, v, PASS if v.passed else FAIL),
        skipped=lambda stage, module, why: Finding(stage, OWN_INPUTS, module, None, SKIP, why),
    )


def seen(found: list[Finding]) -> list[tuple[str | None, str, str | None]]:
    return [(f.module, f.status, f.verdict.cause if f.verdict else f.why) for f in found]


@pytest.mark.parametrize("kind", ["rank", "rank_eq6"])
def test_ranks_are_r_init_where_a_module_has_room(kind: str) -> None:
    base, S = of("rank", 3, 2), of("sensitivity", 1.0, 3.0)
    eq6 = 3 if kind == "rank_eq6" else 2  # before it is cut to the module
    assert seen(ranks_of(sides(S, base | of(kind, 3, eq6)))) == [(None, PASS, None)] * (1 if kind == "rank" else 2)
    for got, module, cause in (
        ((1, eq6), "m", None),
        ((4, eq6), "m", None),
        ((3, eq6 - 1), "n", None),
        ((3, 3), "n", "ranks are not cut to the module's size") if kind == "rank" else ((3, 4), "n", None),
        # of 5 ranks by S, or 6: 1/4 and 3/4
        ((2, 2), "m", "ranks are those of Eq. 6: this run does not adapt them")
        if kind == "rank"
        else ((3, 2), "n", None),
    ):
        assert seen(ranks_of(sides(S, base | of(kind, *got))))[-1] == (module, FAIL, cause), got
    assert seen(ranks_of(sides(S, {"rank/m": 3})))[0][1] == SKIP
    if kind == "rank_eq6":  # of one module alone it says nothing
        assert len(ranks_of(sides(S, {**base, "rank_eq6/m": 9}))) == 1


@pytest.mark.parametrize(
    ("rule", "ranks", "right"),
    [
        ("alpha/r_init", (3, 2), (7 / 3, 7 / 3)),
        ("alpha/r_i", (3, 2), (7 / 3, 7 / 2)),
        ("alpha/r_i", (5, 0), (7 / 5, 7.0)),  # a module without a rank has no scale to speak of
    ],
)
def test_scales_follow_from_alpha_and_the_rank(rule: str, ranks: tuple[int, int], right: tuple[float, float]) -> None:
    for candidate in (of("rank", *ranks), {}):  # golden's ranks where it has none of its own
        golden = of("rank", *ranks) if not candidate else of("rank", 1, 1)
        for i, module in enumerate(SHAPES):
            for share, status in ((0.97, PASS), (-0.97, PASS), (1.03, FAIL), (-1.03, FAIL)):
                scales = [*right]
                scales[i] *= 1 + share * 8 * UNIT
                (found,) = scales_of(sides(golden, candidate | of("scale", *scales), rule))
                assert (found.module, found.status) == (None if status == PASS else module, status)


def test_other_rules_for_a_scale_are_named() -> None:
    ranks, S = of("rank", 3, 2), of("sensitivity", 1.0, 3.0)
    for scales, cause in (
        ((7 / 3, 7 / 2), "the scale is alpha/r_i: this run takes alpha/r_init"),
        ((7.0, 7.0), "alpha itself: the scale is not divided by the rank"),
        ((7 / 3**0.5, 7 / 2**0.5), "alpha over the root of the rank (rsLoRA)"),
        ((1.0, 1.0), "there is no scale"),
        ((7 / 6, 7 / 2), "scales are those of Eq. 7: this run does not adapt them"),  # by S, of mean 2
        ((5.0, 0.25), None),
    ):
        (found,) = scales_of(sides(S, ranks | of("scale", *scales)))
        assert found.status == FAIL and found.verdict is not None and found.verdict.cause == cause
    (alone,) = scales_of(sides(S, {"scale/n": 7 / 2, "rank/n": 2}))  # of the one module that is recorded
    assert alone.verdict is not None and "Eq. 7" in str(alone.verdict.cause)
    assert seen(scales_of(sides(S, ranks))) == [(None, SKIP, "not recorded")]
    (without,) = scales_of(sides({}, ranks | of("scale", 7 / 6, 7 / 2)))  # a golden trace without S
    assert without.verdict is not None and without.verdict.cause is None
