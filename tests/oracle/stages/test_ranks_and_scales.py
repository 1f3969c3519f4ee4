"""Ranks and scales: ties, scores that are missing, alpha."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, changed, replaced, without
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages import ranks as judged
from tlora_ref.oracle.stages.ranks import _is_open_tie, _representable
from tlora_ref.oracle.traces import Trace


def test_exact_ties_go_to_even_and_open_ties_either_way() -> None:
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    inputs = {"sensitivity": np.array([1.0, 3.0, 4.0]), "shapes": [(9, 9)] * 3, "r_init": 4, "alpha": 4.0}
    scales = np.array([0.375, 1.125, 1.5])  # 3 S / 8
    for ranks, right in (([2, 4, 6], True), ([1, 4, 6], False), ([2, 5, 6], False)):  # shares 1.5, 4.5, 6
        verdicts = judge("allocate", inputs, (np.array(ranks), scales), switches=paper, precision=precision)
        assert all(v.passed for v in verdicts) is right
    thirds = {**inputs, "sensitivity": np.array([0.1, 0.3, 0.2])}  # shares 2, 6, 4 of 12 but for rounding
    thirds["r_init"] = 1  # 0.5, 1.5, 1: ties that no binary fraction holds
    for first in (0, 1):
        output = (np.array([first, 2, 1]), np.array([0.1, 0.3, 0.2]) / 0.2 * 4.0)
        assert all(v.passed for v in judge("allocate", thirds, output, switches=paper, precision=precision))


@pytest.mark.parametrize(
    ("exact", "distance", "open_"),
    [(4.5, 1e-5, True), (4.5, -1e-5, True), (4.5, 3e-5, False), (4.5, -3e-5, False), (0.5, 2.5e-6, True),
     (0.5, 6e-6, False)],
)  # fmt: skip
def test_how_near_to_a_tie_is_open_in_float32(exact: float, distance: float, open_: bool) -> None:
    """Two modules: 6 (sqrt(2) + 3) 2^-23 max(1, exact), which is 1.42e-5 at 4.5 of 8 and 3.2e-6 at 0.5."""
    precision, paper = Precision.of("float32"), PROFILES["paper"]
    first = (exact + distance) / 8
    S = np.array([first, 1 - first])
    inputs = {"sensitivity": S, "shapes": [(99, 99)] * 2, "r_init": 4, "alpha": 4.0}
    right, other = sorted((np.floor(exact), np.ceil(exact)), reverse=distance > 0)
    for rank, passes in ((right, True), (other, open_)):
        output = (np.array([rank, 8 - right]), 2 * S)
        assert judge("allocate", inputs, output, switches=paper, precision=precision)[0].passed is passes


@pytest.mark.parametrize(("distance", "open_"), [(4e-6, True), (-4e-6, True), (6.5e-6, False), (-6.5e-6, False)])
def test_a_sum_over_more_modules_is_off_by_more(distance: float, open_: bool) -> None:
    """Sixteen modules: 6 (4 + 3) 2^-23 is 5.0e-6."""
    first = (0.5 + distance) / 16
    S = np.array([first, *[(1 - first) / 15] * 15])
    assert _is_open_tie(S, 0, 16, Precision.of("float32")) is open_


@pytest.mark.parametrize(
    ("value", "float32", "float64"),
    [
        (Fraction(3, 8), True, True),
        (Fraction(1, 3), False, False),
        (Fraction(2**24 + 1), False, True),
        (Fraction(2**24 - 1), True, True),
        (Fraction(2**40), True, True),
        (Fraction(2**25 - 1, 2**30), False, True),
        (Fraction((2**24 - 1) * 2**9), True, True),
        (Fraction(2**53 + 1), False, False),
        (Fraction(2**53 - 1, 2**60), False, True),
        (Fraction(5, 6), False, False),
    ],
)
def test_what_a_mantissa_holds(value: Fraction, float32: bool, float64: bool) -> None:
    """Against NumPy: what is exact survives the conversion."""
    for dtype, unit, expected in ((np.float32, 2.0**-23, float32), (np.float64, 2.0**-52, float64)):
        assert _representable(value, unit) is expected
        assert (Fraction(float(dtype(value.numerator / value.denominator))) == value) is expected


@pytest.mark.parametrize(
    ("S", "R_total", "open_", "why"),
    [
        ([1.0, 3.0], 2, False, "every step is a short binary fraction"),
        ([3.0, 9.0], 2, True, "R_total / sum is a sixth"),
        ([1.0, 1.0, 4.0], 3, True, "the share is a sixth"),
        ([9.0, 5.0, 5.0, 5.0], 12, False, "sum 24, share 3/8, product 108, R_total / sum a half"),
        ([8388609.0, 25165827.0], 2, True, "the sum has 24 bits and divides nothing"),
    ],
)
def test_a_tie_is_closed_where_every_order_of_arithmetic_is_exact(
    S: list[float], R_total: int, open_: bool, why: str
) -> None:
    assert _is_open_tie(np.array(S), 0, R_total, Precision.of("float32")) is open_, why


RULES = {
    "none": PROFILES["paper"],
    "largest": PROFILES["released"],
    "redistribute": replace(PROFILES["paper"], redistribute=True),
}


@pytest.mark.parametrize(
    ("exact", "error", "rule", "expected"),
    [
        # 2.45 may be rounded up: one rank, which among the largest one may have to give
        ([5.2, 2.45, 2.0, 2.35], [0.0, 0.1, 0.0, 0.0], "none", [0, 1, 0, 0]),
        ([5.2, 2.45, 2.0, 2.35], [0.0, 0.1, 0.0, 0.0], "redistribute", [1, 1, 1, 1]),
        # rounded they sum to 11 of 12: within 1 + 1 + 1 of the largest, 5.2, lie the second and the fourth
        ([5.2, 2.45, 2.0, 2.35], [0.0, 0.1, 0.0, 0.0], "largest", [1, 2, 0, 1]),
        # all six may be rounded otherwise, yet the remainder is no more than 6 / 2
        ([6.45, 5.45, 1.55, 1.55, 1.45, 1.55], [0.1] * 6, "largest", [4, 4, 1, 1, 1, 1]),
        ([6.45, 5.45, 1.55, 1.55, 1.45, 1.55], [0.01] * 6, "largest", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_how_many_ranks_the_candidate_s_own_error_may_move(
    exact: list[float], error: list[float], rule: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "share_errors", lambda sides, S: np.array(error) / sum(exact))
    sides = SimpleNamespace(golden=SimpleNamespace(manifest=SimpleNamespace(r_init=3)))
    assert judged._open(sides, np.array(exact), RULES[rule]) == pytest.approx(expected)


def test_rounding_otherwise_is_counted_in_whole_ranks() -> None:
    found = judged.rounded_otherwise(np.array([2.4, 2.6, 3.0, 2.4, 3.0]), np.array([0.2, 0.2, 0.4, 1.2, 2.7]))
    assert found.tolist() == [1, 1, 0, 2, 3]


def test_a_share_is_off_by_its_score_and_by_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 1 and 3, off by 0.1 and 0.2, with a sum that is off by 0.3."""
    monkeypatch.setattr(judged, "mean_error", lambda sides, module, score: 0.04 * score)
    noise = {"a": 0.06, "b": 0.08}
    golden = SimpleNamespace(shapes=dict.fromkeys(noise, (9, 9)))
    sides = SimpleNamespace(golden=golden, network=lambda stage, module, score: noise[module])
    found = judged.share_errors(sides, np.array([1.0, 3.0]))
    np.testing.assert_allclose(found, [(0.1 + 0.25 * 0.3) / 4, (0.2 + 0.75 * 0.3) / 4], rtol=1e-14)


def test_scores_that_are_missing_are_the_golden_ones(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", without(".*sensitivity/.*"))
    report = tr.compare(golden, candidate)
    assert report.passed
    against = {(f.stage, f.against) for f in report.of("pass") if f.stage in ("ranks", "scales")}
    assert ("ranks", "golden") in against and ("ranks", "own inputs") not in against
    wrong = changed(golden, tmp_path / "w", lambda t: replaced("rank/.*", lambda u, k: u[k] + 1)(
        without(".*sensitivity/.*|A/.*|sigma/.*|train/.*|merged/.*|alpha/.*")(t)))  # fmt: skip
    assert tr.compare(golden, wrong).first_failing == "ranks"


def test_ranks_of_equation_6_are_judged_without_a_cap(tmp_path: Path) -> None:
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=64, alpha=3.0, stages=("calibration", "allocation"))
    golden, widest = Trace(tmp_path / "g"), max(min(shape) for shape in MODEL.shapes().values())
    assert max(float(golden.get(f"rank_eq6/{m}")) for m in golden.shapes) > widest
    assert max(float(golden.get(f"rank/{m}")) for m in golden.shapes) <= widest
    assert tr.compare(tmp_path / "g", tmp_path / "g").passed


def test_alpha_belongs_to_rank_and_scale(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", replaced("alpha/.*", lambda t, k: t[k] * 1.001))
    report = tr.compare(golden, candidate)
    assert report.first_failing == "scales" and {f.status for f in report.findings if f.stage == "ranks"} == {"pass"}
