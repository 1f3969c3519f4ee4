"""Cuts of a spectrum, and how A lies to them: singular values, matrices and angles by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.oracle.stages.test_rows import Held
from tlora_ref.backend import Array
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.rows import _by_gaps
from tlora_ref.oracle.stages.spectrum import Spectrum, row_space, rows, spectrum, svd_unit

#: Gaps of 4.1, 4 (of four errors: not told), 8.5 and 8 (of which two errors are a quarter: blunt).
FOUND = Spectrum(np.zeros((0, 5)), np.array([24.6, 20.5, 16.5, 8.0, 0.0]), np.eye(5), 1.0)
SHARP = 2.0 / 8.5


def test_a_cut_may_turn_by_two_errors_of_its_gap() -> None:
    np.testing.assert_allclose(FOUND.sines(), [0.0, 2.0 / 4.1, 1.0, SHARP, 0.25, 0.0], rtol=1e-12)
    assert FOUND.sharp() == [0, 3, 5]
    assert replace(FOUND, Vt=np.eye(5)[:3]).sharp() == [0, 3] and replace(FOUND, Vt=np.eye(5)[:2]).sharp() == [0]


@pytest.mark.parametrize("name", ["float64", "float32", "tf32", "bfloat16", "float16"])
def test_the_error_of_W_C_is_of_its_product_its_storage_and_its_decomposition(name: str) -> None:
    """W C is W here, of singular values 2 and sqrt(2); |W| |C| has the entries 3, 3 and 2."""
    W, C = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0]]), np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    p, own = Precision.of(name), 2.0**-52
    for svd, unit in (("float64", 0.0), ("float32", 2.0**-23)):
        switches = replace(PROFILES["paper"], svd_dtype=svd)
        assert svd_unit(switches) == unit
        arithmetic, stored = max(p.accumulation + own, unit), max(p.storage, unit)
        product = 6.0 * (math.sqrt(3.0) + 1.0) * arithmetic / math.sqrt(2.0) + 2.0 * p.product
        decomposition = 6.0 * math.sqrt(3.0) * arithmetic * 2.0
        found = spectrum(W, C, switches, p, whole=True)
        error = product * math.sqrt(22.0) + stored * math.sqrt(6.0) + decomposition + 3.0 * p.tiny
        assert found.error == pytest.approx(error, rel=1e-12)
        np.testing.assert_allclose(found.M, W)
        np.testing.assert_allclose(found.sigma, [2.0, math.sqrt(2.0), 0.0], atol=1e-15)
        np.testing.assert_allclose(np.abs(found.Vt @ np.array([0.0, 0.0, 1.0])), [1.0, 0.0, 0.0], atol=1e-15)
        thin = spectrum(W, C, switches, p)
        assert thin.error == found.error and np.array_equal(thin.sigma, found.sigma)
        np.testing.assert_allclose(np.abs(thin.Vt), np.abs(found.Vt[:2]), atol=1e-15)
    tall = spectrum(W.T, np.array([[2.0, 0.0], [0.0, 3.0]]), PROFILES["paper"], p)
    assert tall.sigma.shape == (2,) and tall.Vt.shape == (2, 2)


def turned(row: int, towards: int, angle: float, r: int) -> Array:
    """The first r axes, one of them turned towards one that is not among them."""
    A = np.eye(5)[:r]
    A[row] = 0.0
    A[row, row], A[row, towards] = math.cos(angle), math.sin(angle)
    return A


@pytest.mark.parametrize(
    ("row", "towards", "r", "cut"),
    [
        (2, 3, 3, 3),  # of the space before the cut
        (1, 4, 2, 3),  # of fewer rows, all before it
        (0, 4, 4, 3),  # of more rows, with all of those before it
    ],
)
def test_the_space_of_A_lies_around_and_inside_of_the_sharp_cuts(row: int, towards: int, r: int, cut: int) -> None:
    for angle in (0.1, 0.3, 1.2):
        for size in (1.0, 1e200, 1e-200):
            verdict = row_space("A", turned(row, towards, angle, r) * size, FOUND, 0.01)
            assert verdict.error == pytest.approx(math.sin(angle), rel=1e-9)
            assert verdict.allowed == pytest.approx(SHARP + 0.01, rel=1e-12) and verdict.index == (cut,)
            assert verdict.passed is (math.sin(angle) <= SHARP + 0.01)
            assert verdict.detects == pytest.approx(SHARP + 0.01, rel=1e-12)
    free = row_space("A", turned(1, 2, 0.7, 2), FOUND, 0.01)  # inside the cluster of the first three
    assert free.passed and free.error < 1e-9


def test_the_cut_is_told_whose_bound_is_most_exceeded() -> None:
    """By 0.05 of 2 / 80 at the first cut, and by 0.3 of 2 / 8.5 at the third."""
    found = replace(FOUND, sigma=np.array([100.5, 20.5, 16.5, 8.0, 0.0]))
    A = turned(0, 4, 0.05, 3)
    A[2, 2:4] = math.cos(0.3), math.sin(0.3)
    space, row = row_space("A", A, found, 0.0), rows("A", A, found, 0.0)
    assert space.index == (1,) and row.index == (0,)
    for verdict in (space, row):
        assert not verdict.passed and verdict.error == pytest.approx(math.sin(0.05), rel=1e-9)
        assert verdict.allowed == pytest.approx(0.025, rel=1e-12) == verdict.detects
    nothing = row_space("A", A, replace(found, error=30.0), 0.0)  # no cut is told
    assert nothing.passed and (nothing.error, nothing.allowed, nothing.detects) == (0.0, 1.0, None)


def test_each_row_lies_on_one_side_of_a_sharp_cut() -> None:
    for angle, passed in ((0.1, True), (0.3, False), (1.3, False), (1.5, True)):
        for known in (5, 4, 3):
            A = 2.0 * turned(1, 4, angle, 3)
            verdict = rows("A", A, replace(FOUND, Vt=np.eye(5)[:known]), 0.01)
            assert verdict.error == pytest.approx(min(math.sin(angle), math.cos(angle)), rel=1e-9)
            assert verdict.allowed == pytest.approx(SHARP + 0.01, rel=1e-12) == verdict.detects
            assert verdict.passed is passed and verdict.index == (1,)
    assert rows("A", np.zeros((1, 5)), FOUND, 0.01).passed
    blunt = rows("A", turned(1, 4, 0.7, 3), replace(FOUND, error=9.0), 0.01)  # no cut is told
    assert blunt.passed and (blunt.error, blunt.allowed) == (0.0, 1.0) and "rows [0, 1, 2]" in blunt.note
    # gaps that tell every cut leave no row free
    told = rows("A", np.eye(5), replace(FOUND, error=0.1), 0.01)
    assert told.passed and told.note == ""
    assert "rows [0, 1, 2, 3, 4]" in rows("A", np.eye(5), FOUND, 0.01).note
    assert (
        "rows [0, 1]"
        in rows("A", np.eye(5)[[3, 4, 2]], replace(FOUND, sigma=np.array([60.0, 40, 20, 0, 0])), 0.01).note
    )


def sides_of(
    init: str = "wc-svd", shape: tuple[int, int] = (2, 4), sigma: tuple[float, ...] = (8.0, 4.0)
) -> SimpleNamespace:
    C = np.diag([4.0, 2.0, 1.0, 1.0])
    golden = Held({"A/m": np.eye(2, 4), "scale/m": 3.0, "covariance/m": C, "sigma/m": np.array(sigma)})
    golden.manifest, golden.shapes = SimpleNamespace(init=init), {"m": shape}  # type: ignore[attr-defined]
    return SimpleNamespace(
        golden=golden, candidate=Held(), precision=Precision.of("float64"), unit=1e-3, switches=PROFILES["paper"],
        network=lambda quantity, key, array: 0.0,
    )  # fmt: skip


def test_rows_that_are_not_recorded_may_be_turned_as_far_as_the_cuts_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tlora_ref.oracle.stages.rows.moved", lambda sides, m, sigma: 0.5)
    found = _by_gaps(sides_of(), "m", np.eye(2, 4), 3.0)
    assert not isinstance(found, str) and found.scale == 3.0 and found.turn.tolist() == np.eye(2).tolist()
    # singular values 8, 4, 0 and 0: cuts may turn by 0, 1/4, 1/4 and, between zeros, anywhere
    expected = np.array([0.25, 0.5]) + 1e-3
    np.testing.assert_allclose(found.outside, expected)
    np.testing.assert_allclose(found.inside, [[expected[0]] * 2, [expected[1]] * 2])
    np.testing.assert_allclose(found.error, expected[:, None])
    assert _by_gaps(sides_of(shape=(4, 2), sigma=(8.0, 4.0)), "m", np.eye(2), 3.0).outside.tolist() == [0.251, 0.251]  # type: ignore[union-attr]
    wide = _by_gaps(sides_of(shape=(3, 5), sigma=(8.0, 4.0, 2.0)), "m", np.eye(3, 5), 3.0)
    assert wide.outside.tolist() == pytest.approx([0.251, 1.251, 2.001])  # type: ignore[union-attr]
    for other in (sides_of(init="w-svd"), sides_of(sigma=(8.0,))):
        assert isinstance(_by_gaps(other, "m", np.eye(2, 4), 3.0), str)
    bare = sides_of()
    del bare.golden["covariance/m"]
    assert isinstance(_by_gaps(bare, "m", np.eye(2, 4), 3.0), str)
