"""Lines 12 to 15: ranks, scales, and the rules for what the paper leaves open."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlora_ref as tr
from tests.method.plans import plan
from tlora_ref.errors import ConfigError, NumericsError, ShapeError
from tlora_ref.method import allocation

small_ints = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)
floats = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=12)


def in_order(values: dict[str, float]) -> list[float]:
    return list(values.values())


# ---- line 12 ----


def test_the_budget_is_that_of_plain_lora() -> None:
    assert allocation.budget(7, 3, 4.5) == (21, 31.5)
    assert allocation.budget(1, np.int64(2), 0.5) == (2, 0.5)
    for modules, r_init, alpha in [(0, 1, 1.0), (1, 0, 1.0), (1, 1.5, 1.0), (1, True, 1.0), (1, 1, 0.0)]:
        with pytest.raises(ConfigError):
            allocation.budget(modules, r_init, alpha)  # type: ignore[arg-type]
    for alpha in (-1.0, math.inf, float("inf"), math.nan):  # one infinity is not the same object as another
        with pytest.raises(ConfigError, match="expected a positive integer and a positive, finite number"):
            allocation.budget(1, 1, alpha)


# ---- Eq. 6 and Eq. 7 ----


@given(small_ints, st.integers(1, 64))
def test_ranks_are_exact_with_ties_to_even(S: list[int], r_init: int) -> None:
    """Python rounds fractions exactly, half to even; integers leave float64 no room to err."""
    expected = [round(Fraction(len(S) * r_init * s, sum(S))) for s in S]
    assert in_order(plan([float(s) for s in S], r_init).rank_eq6) == expected


@pytest.mark.parametrize(
    ("S", "r_init", "expected"),
    [
        ([1.0, 2.0, 7.0], 15, [4, 9, 32]),
        ([1.0, 3.0], 1, [0, 2]),
        ([3.0, 5.0], 2, [2, 2]),
        ([1.0, 6.0, 7.0], 7, [2, 9, 10]),
        ([1.0, 1.0, 1.0], 5, [5] * 3),
    ],
)
def test_ties_go_to_even(S: list[float], r_init: int, expected: list[int]) -> None:
    assert in_order(plan(S, r_init).rank) == expected


@given(floats, st.integers(1, 128))
def test_ranks_miss_the_budget_by_at_most_half_a_rank_a_module(S: list[float], r_init: int) -> None:
    assert abs(sum(in_order(plan(S, r_init).rank_eq6)) - len(S) * r_init) <= len(S) / 2


@given(floats, st.integers(1, 128), st.floats(0.5, 256))
def test_scales_sum_to_the_budget_and_follow_the_sensitivity(S: list[float], r_init: int, alpha: float) -> None:
    made = plan(S, r_init, alpha)
    assert math.fsum(made.scales.values()) == pytest.approx(len(S) * alpha / r_init, rel=1e-12)
    mean = Fraction(0) + sum(map(Fraction, S)) / len(S)
    for s, scale in zip(S, in_order(made.scales), strict=True):
        assert scale == pytest.approx(float(Fraction(alpha) / r_init * Fraction(s) / mean), rel=1e-12)


def test_a_module_of_average_sensitivity_trains_at_plain_lora_s_scale() -> None:
    assert plan([1.0, 2.0, 3.0], r_init=4, alpha=10.0).scale("m1") == pytest.approx(2.5, rel=1e-14)


def test_alpha_is_rank_used_times_scale_and_quadratic_in_the_share() -> None:
    made = plan([1.0, 3.0], r_init=4, alpha=8.0)  # shares 1/4, 3/4: ranks 2, 6; scales 1, 3
    assert in_order(made.rank) == [2, 6]
    assert in_order(made.scales) == [1.0, 3.0]
    assert in_order(made.alpha) == [2.0, 18.0]
    assert allocation.alphas(np.array([2, 6]), np.array([0.25, 0.75]), 16.0, 4).tolist() == [2.0, 18.0]
    assert allocation.alphas(np.array([1, 3]), np.array([0.25, 0.75]), 3.0, 2).tolist() == [0.375, 3.375]


@given(floats, st.integers(-900, 900))
def test_scale_invariance_in_the_sensitivities(S: list[float], power: int) -> None:
    scaled = plan([math.ldexp(s, power) for s in S])
    assert scaled.rank == plan(S).rank
    assert scaled.scales == plan(S).scales
    assert scaled.share == plan(S).share


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_permuting_the_modules_permutes_the_plan(S: list[float], random: object) -> None:
    order = list(range(len(S)))
    random.shuffle(order)
    names = {i: f"m{i}" for i in order}
    shapes = {names[i]: (40, 30) for i in order}
    permuted = tr.allocate({names[i]: S[i] for i in order}, shapes)
    straight = tr.allocate({names[i]: S[i] for i in sorted(order)}, {names[i]: (40, 30) for i in sorted(order)})
    assert (permuted.rank, permuted.scales, permuted.notes) == (straight.rank, straight.scales, straight.notes)
    assert list(permuted.rank) == [names[i] for i in order]


def test_the_order_of_the_sensitivities_does_not_matter_only_that_of_the_shapes() -> None:
    shapes = {"a": (9, 9), "b": (9, 9)}
    made = tr.allocate({"b": 3.0, "a": 1.0}, shapes)
    assert made.share == {"a": 0.25, "b": 0.75}
    assert list(made.rank) == ["a", "b"]


# ---- what the paper leaves open ----


def test_rank_is_cut_to_the_smaller_side_and_not_handed_on() -> None:
    made = tr.allocate({"q": 1.0, "v": 7.0, "z": 0.0}, {"q": (16, 32), "v": (5, 32), "z": (16, 32)}, 8, 4.0)
    assert made.rank_eq6 == {"q": 3, "v": 21, "z": 0}
    assert made.rank == {"q": 3, "v": 5, "z": 0}
    assert made.scale("v") == pytest.approx(4 / 8 * 7 / (8 / 3))  # not changed by the cut
    assert made.alpha["v"] / made.rank["v"] == pytest.approx(made.scale("v"), rel=1e-15)
    assert (made.scale("z"), made.alpha["z"]) == (0.0, 0.0)
    assert made.notes == {"v": "rank 21 cut to 5 (5 x 32)", "z": "rank 0: no adapter"}


def test_a_module_rounded_to_rank_0_keeps_its_scale() -> None:
    made = plan([1.0, 99.0], r_init=8)
    assert made.rank["m0"] == 0
    assert made.scale("m0") == pytest.approx(0.02)
    assert made.notes["m0"] == "rank 0: no adapter"


@pytest.mark.parametrize(
    ("r", "total", "expected"),
    [
        ([3, 3, 1], 9, [5, 3, 1]),  # the first of the largest takes one, and is then the largest
        ([3, 3, 1], 5, [2, 2, 1]),  # the largest is looked up anew
        ([3, 3, 1], 4, [1, 2, 1]),
        ([2, 5, 1], 8, [2, 5, 1]),
    ],
)
def test_remainder_of_the_released_code(r: list[int], total: int, expected: list[int]) -> None:
    given_ranks = np.array(r)
    assert allocation.settle_remainder(given_ranks, total).tolist() == expected
    assert given_ranks.tolist() == r


def test_released_alpha_is_rounded_then_floored_and_each_is_a_switch() -> None:
    # shares 1/2, 3/10, 1/5 of alpha_total 12: 6, 3.6, 2.4, divided by r_init 2
    S = [5.0, 3.0, 2.0]
    expected = {
        (False, False): [3, 1.8, 1.2],
        (True, False): [3, 2, 1],
        (False, True): [3, 2, 2],
        (True, True): [3, 2, 2],
    }
    for (rounded, floor), scales in expected.items():
        made = plan(S, 2, 4.0, round_alpha=rounded, floor_alpha=floor)
        assert in_order(made.scales) == pytest.approx(scales, rel=1e-14)
    lower = plan([5.0, 4.5, 0.5], 2, 4.0, profile="released")  # 6, 5.4 -> 5, 0.6 -> 1 -> 4
    assert in_order(lower.scales) == [3.0, 2.5, 2.0]
    assert lower.notes["m1"].endswith("alpha rounding: scale 2.7 -> 2.5")
    assert lower.notes["m2"].endswith("alpha floor: scale 0.3 -> 2")
    down = plan([4.4, 3.6], 2, 4.0, round_alpha=True, floor_alpha=True)  # 4.4 is rounded to alpha itself
    assert down.notes["m0"] == "alpha rounding: scale 2.2 -> 2"
    assert plan(S, 2, 4.0, round_alpha=True).notes["m2"] == "alpha rounding: scale 1.2 -> 1"


def test_released_ranks_sum_to_the_budget_and_are_not_cut_below_the_width() -> None:
    made = tr.allocate({"a": 1.0, "b": 1.0, "c": 1.0, "d": 6.0}, dict.fromkeys("abcd", (4, 30)), 5, 5.0, "released")
    # 20/9 each: 2, 2, 2 and 40/3: 13, which takes the one left over
    assert made.rank_eq6 == {"a": 2, "b": 2, "c": 2, "d": 13}
    assert made.rank == {"a": 2, "b": 2, "c": 2, "d": 14}
    assert made.notes["d"].startswith("remainder: 13 -> 14")
    narrow = tr.allocate({"a": 1.0, "d": 6.0}, dict.fromkeys("ad", (40, 8)), 8, 8.0, "released")
    assert narrow.rank["d"] == 8  # A has only d_in rows


def test_rank_floor_is_opt_in() -> None:
    assert in_order(plan([1.0, 99.0], rank_floor=2).rank) == [2, 16]
    assert plan([1.0, 99.0], rank_floor=2).notes == {"m0": "rank 0 raised to 2"}
    assert in_order(plan([1.0, 99.0], wide=1, rank_floor=2).rank) == [1, 1]  # the cap comes last


def test_redistribution_fills_the_budget_by_sensitivity() -> None:
    S = {"a": 1.0, "b": 2.0, "c": 5.0}
    shapes = {"a": (50, 50), "b": (50, 50), "c": (5, 50)}
    assert tr.allocate(S, shapes, 8).rank == {"a": 3, "b": 6, "c": 5}
    made = tr.allocate(S, shapes, 8, redistribute=True)
    # 10 of c's 15 are left for a (3 of 3 already) and b (6 of 6): by turns, the first on ties
    assert made.rank == {"a": 8, "b": 11, "c": 5}
    assert made.notes["c"].startswith("rank 15 cut to 5")
    assert made.notes["a"] == "rank 3 raised to 8"


@pytest.mark.parametrize(
    ("ranks", "total", "expected"),
    [
        ([3, 3], 4, [3, 3]),
        ([100, 100], 300, [100, 200]),
        ([100, 100], 2000, [500, 500]),
    ],  # none to give; some; too many
)
def test_redistribution_hands_out_what_is_left(ranks: list[int], total: int, expected: list[int]) -> None:
    share, cap = np.array([0.25, 0.75]), np.array([500, 500])
    assert allocation.redistribute_ranks(np.array(ranks), share, cap, total).tolist() == expected


@given(small_ints, st.lists(st.integers(1, 20), min_size=8, max_size=8), st.integers(1, 12))
def test_redistribution_never_takes_and_never_exceeds(S: list[int], caps: list[int], r_init: int) -> None:
    names = [f"m{i}" for i in range(len(S))]
    shapes = {m: (cap, 20) for m, cap in zip(names, caps, strict=False)}
    sensitivity = {m: float(s) for m, s in zip(names, S, strict=True)}
    without, filled = (tr.allocate(sensitivity, shapes, r_init, redistribute=on) for on in (False, True))
    total = sum(without.rank_eq6.values())
    assert sum(filled.rank.values()) == min(total, sum(shape[0] for shape in shapes.values()))
    assert all(without.rank[m] <= filled.rank[m] <= shapes[m][0] for m in names)


# ---- ablations (Table 4) ----


@pytest.mark.parametrize(
    ("options", "ranks", "scales"),
    [
        ({"adapt_rank": False, "adapt_scale": False}, [4, 4], [2.0, 2.0]),
        ({"adapt_rank": True, "adapt_scale": False}, [2, 6], [2.0, 2.0]),
        ({"adapt_rank": True, "adapt_scale": False, "uniform_scale": "alpha/r_i"}, [2, 6], [4.0, 8 / 6]),
        ({"adapt_rank": False, "adapt_scale": True}, [4, 4], [1.0, 3.0]),
        ({}, [2, 6], [1.0, 3.0]),
    ],
)
def test_ablations(options: dict[str, object], ranks: list[int], scales: list[float]) -> None:
    made = plan([1.0, 3.0], r_init=4, alpha=8.0, **options)
    assert in_order(made.rank) == ranks
    assert in_order(made.scales) == pytest.approx(scales, rel=1e-15)
    assert in_order(made.alpha) == pytest.approx([r * s for r, s in zip(ranks, scales, strict=True)], rel=1e-15)
    assert made.notes == {}


def test_alpha_over_r_i_is_defined_at_rank_0() -> None:
    assert plan([1.0, 99.0], adapt_scale=False, uniform_scale="alpha/r_i").scale("m0") == 8.0


@pytest.mark.parametrize(
    ("S", "named"),
    [
        ([0.0, 1.0, -1.0], "module 2 is -1"),
        ([0.0, math.nan, 1.0], "module 1 is nan"),
        ([1.0, -math.inf], "module 1 is -inf"),
    ],
)
def test_a_sensitivity_that_is_none_is_named(S: list[float], named: str) -> None:
    with pytest.raises(NumericsError, match=named):
        allocation.shares(np.array(S))


def test_sensitivities_are_a_vector() -> None:
    for S in (np.array(3.0), np.ones((2, 2))):
        with pytest.raises(ShapeError, match=r"expected \(modules,\)"):
            allocation.shares(S)
    with pytest.raises(NumericsError, match="no share of the budget"):
        allocation.shares(np.zeros(0))


def test_shares_of_the_largest_numbers_do_not_overflow() -> None:
    S = np.array([1.5e308, 1.5e308, 1e308, 0.0])
    np.testing.assert_allclose(allocation.shares(S), [0.375, 0.375, 0.25, 0.0], rtol=1e-15)
    assert allocation.ranks(S, 80).tolist() == [30, 30, 20, 0]


def test_plain_lora_needs_no_sensitivity() -> None:
    made = plan([0.0, 0.0], adapt_rank=False, adapt_scale=False)
    assert in_order(made.rank) == [8, 8]


LLAMA2_7B = {f"{i}.{m}": s for i in range(32) for m, s in [
    *((p, (4096, 4096)) for p in "qkvo"), ("up", (11008, 4096)), ("gate", (11008, 4096)), ("down", (4096, 11008))
]}  # fmt: skip
T5_BASE = {f"{i}.{p}": (768, 768) for i in range(12) for p in ("q", "k", "v", "o", "dq", "dk", "dv", "do", *"1234")}
T5_BASE |= {f"{i}.wi": (3072, 768) for i in range(24)} | {f"{i}.wo": (768, 3072) for i in range(24)}


@pytest.mark.parametrize(
    ("shapes", "r", "lora", "frozen"),
    [
        (LLAMA2_7B, 128, 319_815_680, 174_063_616),
        (LLAMA2_7B, 32, 79_953_920, 43_515_904),
        (T5_BASE, 32, 12_976_128, 6_488_064),
    ],
)
def test_trainable_parameters_of_the_paper_s_models(
    shapes: dict[str, tuple[int, int]], r: int, lora: int, frozen: int
) -> None:
    made = tr.allocate(dict.fromkeys(shapes, 1.0), shapes, r, r, adapt_rank=False)
    assert (made.lora_parameters, made.trainable_parameters) == (lora, frozen)


def test_a_profile_that_trains_A_counts_it() -> None:
    shapes = {"a": (5, 7), "b": (3, 7)}
    made = tr.allocate(dict.fromkeys(shapes, 1.0), shapes, 2, 2, tr.PROFILES["released"])
    assert made.rank == {"a": 2, "b": 2}
    assert made.trainable_parameters == made.lora_parameters == 2 * (5 + 7 + 3 + 7)
