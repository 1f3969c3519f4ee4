"""What is within its bound, what of it would be seen, and which slip explains the rest: a few numbers by hand."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.causes import Faint, Fitted
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import both, entries, fitting, rms, root_mean_square, stored, sum_error
from tlora_ref.oracle.verdict import Verdict

TINY = 2.0**-14  # of float16


def test_a_sum_is_off_by_the_root_of_its_terms() -> None:
    rough = Precision("float16", np.dtype(np.float16), 0.0, 2.0**-8, 2.0**-10)
    relative = 6 * (3 + 1) * 2.0**-10 + 2 * 2.0**-8  # of nine terms
    np.testing.assert_allclose(
        sum_error(np.array([2.0, 0.0]), 9, rough), [2 * relative + 9 * TINY, 9 * TINY], rtol=1e-9
    )
    double = sum_error(np.array([2.0]), 9, Precision.of("float64"))
    np.testing.assert_allclose(double, [2 * 6 * 4 * 2.0**-51], rtol=1e-12)  # the reference's own rounding besides
    np.testing.assert_array_equal(stored(np.array([-2.0, 0.0]), Precision.of("float16")), [2.0**-9 + TINY, TINY])


def told(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.passed, round(verdict.error, 12), verdict.allowed, verdict.index, verdict.got, verdict.expected


def test_the_worst_entry_is_told() -> None:
    expected, allowed = np.array([[1.0, 2.0], [-4.0, 0.0]]), np.array([[0.125, 0.25], [0.5, 0.0]])
    got = np.add(expected, [[0.0, -0.125], [0.375, 0.0]])
    found = entries("A", "entries", got, expected, allowed)
    assert told(found) == (True, 0.375, 0.5, (1, 0), -3.625, -4.0) and found.detects == 0.125
    assert entries("A", "entries", expected + allowed, expected, allowed).passed
    got[0, 1] = 2.0 - 0.25 - 2.0**-40
    assert told(entries("A", "entries", got, expected, allowed))[3:] == ((0, 1), got[0, 1], 2.0)
    got[1, 1] = -(2.0**-60)  # where nothing is allowed any error is too much
    assert told(entries("A", "entries", got, expected, allowed))[:4] == (False, 0.0, 0.0, (1, 1))
    assert entries("A", "entries", np.zeros(2), np.zeros(2), 0.0).passed
    assert entries("A", "entries", np.zeros((0, 2)), np.zeros((0, 2)), 0.0) == Verdict("A", "entries", True)
    assert entries("A", "entries", np.zeros(2), np.zeros(2), 1.0).detects is None
    assert entries("A", "entries", np.array([1.0, 9.0]), np.array([1.0, 8.0]), 2.0).detects == 0.25
    assert entries("A", "entries", np.array([-1.0, 8.0]), np.array([-1.0, 8.0]), [0.125, 2.0]).detects == 0.125


def test_what_is_beyond_its_bound_is_wrong_with_what_explains_it() -> None:
    slips = [("slip", lambda: np.array([9.0, 2.0]))]
    for off, passed in ((0.24, True), (0.26, False)):
        assert entries("A", "entries", np.array([1.0, 2.0 + off]), np.array([1.0, 2.0]), 0.25).passed is passed
    wrong = entries("A", "entries", np.array([9.0, 2.0]), np.array([1.0, 2.0]), 0.0625, slips)
    assert not wrong.passed and wrong.cause == "slip"
    right = entries("A", "entries", np.array([1.0, 2.0]), np.array([1.0, 2.0]), 0.25, slips)
    assert right.passed and right.fits == ()
    for got, said in (
        (np.ones(3), "shape (3,), expected (2,)"),
        (np.ones((1, 2)), "shape (1, 2), expected (2,)"),
        (np.ones(1), "shape (1,), expected (2,)"),
        (np.array([1.0, np.nan]), "holds nan at [1]"),
        (np.array([-inf, np.nan]), "holds -inf at [0]"),
    ):
        found = entries("A", "entries", got, np.array([1.0, 2.0]), 0.25, slips)
        assert (found.passed, found.error, found.allowed, found.cause, found.index) == (False, inf, 0.0, said, None)


def test_a_root_mean_square_is_held_to_one_bound() -> None:
    expected = np.array([3.0, -4.0, 0.0, 0.0])  # of rms 5/2
    for off, passed in ((0.5, True), (0.25, True), (0.51, False)):
        found = root_mean_square("C", "entries", np.add(expected, [off, off, -off, off]), expected, 0.5)
        assert (
            found.passed is passed and found.error == pytest.approx(off) and found.what == "entries, root mean square"
        )
        assert (found.allowed, found.expected, found.detects, found.index) == (0.5, 2.5, 0.2, None)
        assert found.got == pytest.approx(rms(np.add(expected, [off, off, -off, off])))
    assert root_mean_square("C", "entries", np.zeros(2), np.zeros(2), 0.5).detects is None
    assert rms(np.zeros(0)) == 0.0 and rms(np.array([3.0, 4.0, 0.0, 0.0])) == 2.5


@pytest.mark.parametrize(
    ("got", "allowed", "other", "explains"),
    [
        # it leaves no more than four bounds, which grow with it: 4 * 0.01 * 2
        (2.0, 0.01, 2.079, True), (2.0, 0.01, 2.086, False), (2.0, 0.01, 1.925, True), (2.0, 0.01, 1.92, False),
        # nearer to what is right than four times as much, 16 * 0.01 * 1.19, it explains faintly
        (1.2, 0.01, 1.2, True), (1.18, 0.01, 1.18, None), (0.83, 0.01, 0.83, True), (0.85, 0.01, 0.85, None),
        # no more than a tenth of the error
        (1.5, 0.02, 1.549, True), (1.5, 0.02, 1.551, False), (1.5, 0.02, 1.451, None), (1.5, 0.02, 1.449, False),
        # and of what is got or explains it
        (0.01, 0.01, 0.011, True), (0.01, 0.01, 0.0112, False), (0.01, 0.01, 0.0091, True), (0.01, 0.01, 0.0089, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unit", [1.0, 0.25, 8.0])
def test_a_slip_explains_what_it_leaves_little_of(
    got: float, allowed: float, other: float, explains: bool | None, unit: float
) -> None:
    value = other * unit
    made = [
        ("longer", lambda: [value, value]),
        ("a number", lambda: value),
        ("none", lambda: [inf]),
        ("slip", lambda: [value]),
    ]
    mine, right, bound = np.array([got * unit]), np.array([unit]), allowed * unit
    found = fitting(mine, right, np.array([bound]), made)
    kinds = {True: [str], None: [Faint], False: []}[explains]
    assert [text for text, _ in found] == ["slip"] * len(kinds) and [type(text) for text, _ in found] == kinds
    assert all(left == pytest.approx(abs(got - other) / abs(got - 1.0)) for _, left in found)
    squares = root_mean_square("C", "entries", mine, right, 2.0 * bound, made)  # room: twice
    assert squares.passed or [type(text) for text, _ in squares.fits] == kinds
    assert squares.passed or squares.cause == ("slip" if explains else None)


@pytest.mark.parametrize(
    ("size", "left", "explains"),
    [
        (16, 0.058, True), (17, 0.058, True), (17, 0.062, None),
        # faintly, where it leaves 0.35 of the root mean square of the error; of few entries a tenth of the largest
        (16, 0.69, None), (16, 0.71, False), (15, 0.058, None), (15, 0.19, None), (15, 0.21, False),
    ],
)  # fmt: skip
def test_of_many_entries_next_to_nothing_is_left_by_no_chance(size: int, left: float, explains: bool | None) -> None:
    expected = np.linspace(1.0, 2.0, size)
    got = expected + 2.0
    found = fitting(got, expected, np.full(size, 0.25), [("slip", lambda: got - left)])
    assert [type(text) for text, _ in found] == {True: [str], None: [Faint], False: []}[explains]
    fitted = fitting(got, expected, np.full(size, 0.25), [(Fitted("slip"), lambda: got - left)])
    assert [type(text) for text, _ in fitted] == ([Fitted] if explains else [])  # what was fitted fits


def test_what_leaves_more_than_noise_may_be_explains_nothing() -> None:
    expected = np.ones(20)
    for bound, explains in ((0.15, True), (0.14, False)):  # four times, and 3.5 times that as the slip is larger
        found = fitting(4.0 * expected, expected, np.full(20, bound / 4), [("slip", lambda: 4.0 * expected - 0.5)])
        assert bool(found) is explains


def test_the_best_slip_comes_first_by_the_hundredth() -> None:
    got, expected = np.array([2.0]), np.array([1.0])
    made = [(str(x), lambda x=x: np.array([2.0 + x])) for x in (0.04, 0.021, 0.019, 0.0)]
    assert [text for text, _ in fitting(got, expected, np.array([0.02]), made)] == ["0.0", "0.021", "0.019", "0.04"]
    assert fitting(np.zeros(1), np.zeros(1), np.array([0.02]), [("nothing", lambda: np.zeros(1))]) == []
    # of numbers that are all zero the bound does not grow
    assert fitting(np.ones(1), np.zeros(1), np.array([0.02]), [("slip", lambda: np.array([1.07]))])[0][0] == "slip"
    assert not fitting(np.ones(1), np.zeros(1), np.array([0.02]), [("slip", lambda: np.array([1.11]))])
    twice = 2.0 * np.ones(1)
    assert fitting(twice, np.zeros(1), np.array([0.02]), [("slip", lambda: np.array([2.1]))])[0][0] == "slip"
    for other, explains in ((1.07, True), (1.09, False)):
        found = root_mean_square("C", "rms", np.ones(1), np.zeros(1), 0.04, [("slip", lambda other=other: [other])])
        assert bool(found.fits) is explains


def test_of_two_verdicts_the_wrong_one_or_what_either_sees() -> None:
    right, wrong = Verdict("A", "first", True, detects=0.5), Verdict("A", "first", False, detects=0.125)
    other, unseen = Verdict("A", "second", True, detects=0.25), Verdict("A", "second", True)
    no = Verdict("A", "second", False)
    assert both(wrong, other) is wrong and both(wrong, no) is wrong and both(right, no) is no
    assert both(right, other) == Verdict("A", "first", True, detects=0.25)
    assert both(other, right).detects == 0.25 and both(right, unseen).detects == 0.5
    assert both(unseen, unseen).detects is None
