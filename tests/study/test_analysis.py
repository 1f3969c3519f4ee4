"""Choice of the rate, paired differences, intervals, seeds: against figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.study.misses import misses
from tlora_ref.study.analysis import (
    MISSES_OF_FIVE,
    corrected,
    difference,
    interval,
    outcomes,
    p_value,
    seeds_needed,
)
from tlora_ref.study.results import Results
from tlora_ref.study.tables import cost, quality


def run(variant: str, lr: float, seed: int, valid: float | None, test: float | None, **more: Any) -> dict[str, Any]:
    setting = {
        "model": "m",
        "task": "t",
        "calibrated_on": "own",
        "equal": "rank",
        "rank": 8,
        "samples": 32,
        "variant": variant,
    }
    costs = {"seconds": {"calibration": 1.0, "training": 2.0}, "peak_bytes": 10**6, "r_init": 8, "trained": 100}
    if valid is None:
        costs = {"error": "the loss is not finite"} | {"peak_bytes": 1}  # type: ignore[assignment]
    found = {"lr": lr, "seed": seed, "valid_loss": valid, "test_loss": test}
    return {**setting, **found, **costs, "gradient_norm": {"first": 1.0, "largest": 2.0}, "phi": None, **more}


def test_the_rate_is_chosen_on_the_validation_split_and_read_on_the_test_split() -> None:
    runs = [run("a", 0.1, s, valid, test) for s, valid, test in ((1, 2.0, 1.0), (2, 2.0, 1.0))]
    runs += [run("a", 0.2, s, valid, test) for s, valid, test in ((1, 1.0, 5.0), (2, 2.9, 7.0))]
    runs += [run("a", 0.3, s, valid, test) for s, valid, test in ((1, 0.1, 0.0), (2, 9.0, 0.0))]
    (found,) = outcomes(runs)
    assert found.lr == 0.2 and not found.at_edge and found.mean == 6.0 and found.test == {1: 5.0, 2: 7.0}
    assert found.spread == pytest.approx(math.sqrt(2.0)) and found.seconds == 3.0


def test_a_rate_that_diverged_is_out_and_seeds_wait_for_all_rates() -> None:
    runs = [run("a", 0.1, 1, 2.0, 2.0), run("a", 0.2, 1, None, None), run("a", 0.1, 2, 1.0, 1.0)]
    (found,) = outcomes(runs)
    assert found.lr == 0.1 and found.test == {1: 2.0} and found.diverged == (0.2,) and found.at_edge
    assert outcomes([run("a", 0.2, 1, None, None)]) == []


def test_differences_are_paired() -> None:
    noise = [0.0, 10.0, -4.0, 3.0, 7.0]
    a = outcomes([run("a", 0.1, s, 1.0, 1.0 + x + 0.01 * s) for s, x in enumerate(noise)])[0]
    b = outcomes([run("b", 0.1, s, 1.0, 2.0 + x) for s, x in enumerate(noise)])[0]
    gap = difference(a, b)
    assert gap is not None and gap.mean == pytest.approx(-0.98) and gap.verdict == "better" and gap.seeds == 5
    assert gap.low < -0.98 < gap.high < 0 and gap.seeds_needed == 2
    back = difference(b, a)
    assert back is not None and back.verdict == "worse" and back.mean == pytest.approx(0.98)


def test_an_interval_with_zero_is_undecided_and_says_how_many_seeds() -> None:
    a = outcomes([run("a", 0.1, s, 1.0, x) for s, x in enumerate([0.0, 2.0, -1.0, 1.5, -0.5])])[0]
    b = outcomes([run("b", 0.1, s, 1.0, 0.0) for s in range(5)])[0]
    gap = difference(a, b)
    assert gap is not None and gap.verdict == "undecided" and gap.low < 0 < gap.high
    # mean 0.4, standard deviation sqrt(6.7 / 4): ((1.959964 + 0.841621) * 1.294218 / 0.4)^2 = 82.17
    assert gap.seeds_needed == 83
    assert difference(a, outcomes([run("b", 0.1, 9, 1.0, 0.0)])[0]) is None


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = sum(low <= 0.3 <= high for low, high in (interval(0.3 + rng.standard_normal(30)) for _ in range(60)))
    assert hits >= 50  # 57 are expected of 60; fewer than 50 come once in 3,000 tries
    assert interval(np.full(5, 0.25)) == (0.25, 0.25)
    assert seeds_needed(np.array([1.0, -1.0])) is None


def test_intervals_of_five_miss_as_often_as_the_page_says() -> None:
    # 200 tries: three standard deviations are 0.08
    assert misses(200) == pytest.approx(MISSES_OF_FIVE, abs=0.08) and MISSES_OF_FIVE > 0.1


def test_p_and_its_correction() -> None:
    assert p_value(np.array([0.5, 0.5])) == 0.0 and p_value(np.zeros(3)) == 1.0
    # one degree of freedom is Cauchy's distribution: differences 1 and 3 have t = 2
    assert p_value(np.array([1.0, 3.0])) == pytest.approx(1 - 2 / math.pi * math.atan(2.0))
    # three: factor 1 + 1/2 + 1/3, times m / rank
    assert corrected([0.04, 0.001, 0.01]) == pytest.approx([0.04 * 11 / 6, 0.001 * 3 * 11 / 6, 0.01 * 1.5 * 11 / 6])
    assert corrected([]) == []


def test_tables_hold_every_setting_beside_the_papers_figure() -> None:
    runs = [run("a", 0.1, s, 1.0, 1.0 + s / 10) for s in (1, 2)] + [run("b", 0.1, s, 1.0, 3.0) for s in (1, 2)]
    paper = {"table": "Table 12", "measure": "%", "values": {"a": 51.78}}
    study = {"name": "s", "title": "", "baseline": "b", "paper": paper, "steps": 1, "batch_size": 1}
    columns, rows = quality(Results(study, runs, 4))
    assert columns[0] == "variant" and columns[-1] == "paper" and all(len(row) == len(columns) for row in rows)
    assert [row[-1] for row in rows] == ["51.78", ""] and "-1.8500" in rows[0] and "undecided" in rows[0]
    columns, rows = cost(Results(study, runs, 4))
    assert rows[0] == ["a", "8.0", "2", "3.0", "1", "1", "2", "", ""] and len(columns) == 9
