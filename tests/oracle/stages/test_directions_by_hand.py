"""How far rounding turns singular vectors, held against roundings that are drawn; and which rows are judged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.directions import _bounds, judge_directions
from tlora_ref.oracle.stages.spectrum import ROTATED

LOW = Precision.of("bfloat16")
DEVIATION = 2.0**-7 / math.sqrt(12.0)


def precision(storage: float) -> Any:
    return SimpleNamespace(storage=storage)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_eight_standard_deviations_of_roundings_that_are_drawn_are_allowed(shape: tuple[int, int]) -> None:
    """Each entry of W, of C and of their product is off by a draw of its own, of a rounding's deviation."""
    rng = np.random.default_rng(1)
    W = rng.normal(size=shape) * [[1.0], [3.0], [0.3], [2.0], [1.5]][: shape[0]]
    X = rng.normal(size=(9, shape[1])) * np.linspace(0.3, 2.0, shape[1])
    C = X.T @ X
    U, sigma, Vt = np.linalg.svd(W @ C)
    unit, draws = 1e-7 / math.sqrt(12.0), 4000
    off = [1.0 + unit * rng.normal(size=(draws, *x.shape)) for x in (W, C, W @ C)]
    M = (W * off[0]) @ (C * off[1]) * off[2]
    carried = np.zeros((shape[1], shape[1]))  # u_k^T E v_l; there is no u_k beyond d_out
    carried[: len(sigma)] = (U.T @ (M - W @ C) @ Vt.T).std(axis=0)[: len(sigma)]
    values = [*sigma, *[0.0] * (shape[1] - len(sigma))]
    found = _bounds(U, sigma, Vt, W, C, precision(1e-7))
    first = np.ones_like(found) - np.eye(len(found))  # any basis of what W C does not see is as good
    for k, m in np.ndindex(found.shape):
        if k != m and min(k, m) < len(sigma):
            reach = values[k] * carried[k, m] + values[m] * carried[m, k]
            first[k, m] = 8.0 * reach / abs(values[k] ** 2 - values[m] ** 2)
    np.testing.assert_allclose(found, first + first @ first, rtol=0.06, atol=1e-10)
    theta = 8.0 * (np.linalg.svd(M)[2] @ Vt.T).std(axis=0)[: len(sigma), : len(sigma)]
    told = found[: len(sigma), : len(sigma)]
    assert (theta <= 1.06 * told + np.eye(len(theta))).all()  # both terms may go one way: a little more than is drawn
    assert (theta >= 0.94 * math.sqrt(0.5) * told)[~np.eye(len(theta), dtype=bool)].all()


def test_what_is_turned_is_turned_on() -> None:
    """Singular values 4, 2 and 1 of W C = W, rounded in two entries: by hand, with the square of the first order."""
    W = np.array([[4.0, 0.5, 0.0], [0.0, 2.0, 0.25], [0.0, 0.0, 1.0]])
    found = _bounds(np.eye(3), np.array([4.0, 2.0, 1.0]), np.eye(3), W, np.eye(3), precision(1e-2))
    unit = 8.0 * 1e-2 / math.sqrt(12.0) * math.sqrt(3.0)
    first = np.zeros((3, 3))
    # u_k^T E v_l: W C as it is stored, W, and C: entry (k, l) of W three times, as C is the identity
    for k, m in ((0, 1), (1, 2)):
        first[k, m] = first[m, k] = W[k, k] * unit * W[k, m] / (W[k, k] ** 2 - W[m, m] ** 2)
    np.testing.assert_allclose(found, first + first @ first, rtol=1e-12, atol=1e-15)


def test_what_lies_closer_than_rounding_reaches_may_be_turned_anywhere() -> None:
    W = np.array([[2.0, 0.5, 0.0], [0.5, 2.0, 0.0], [0.0, 0.0, 1.0]])
    found = _bounds(np.eye(3), np.array([2.0, 2.0, 1.0]), np.eye(3), W, np.eye(3), precision(1e-2))
    assert found.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]  # (0, 0): there and back again
    W = np.array([[2.0, 0.0, 0.0]])
    found = _bounds(np.eye(1), np.array([2.0]), np.eye(3), W, np.eye(3), precision(1e-2))
    assert found.tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]  # nothing is off


@pytest.mark.parametrize(
    ("row", "at", "error", "allowed", "cause"),
    [
        ([0.6, 0.8, 0.0, 0.0], (0, 0), 0.6, 8.0 * DEVIATION * 0.6, ROTATED),
        ([-0.6, 0.8, 0.0, 0.0], (0, 0), 0.6, 8.0 * DEVIATION * 0.6, ROTATED),
        ([0.0, -2.0, 0.0, 0.0], None, 0.0, 0.0, None),
        ([0.0, 0.8, 0.6, 0.0], (0, 2), 0.6, 8.0 * DEVIATION * 0.6, None),  # towards what is no row of A
    ],
)
def test_a_row_is_held_to_how_far_its_storage_may_turn_it(
    row: list[float], at: tuple[int, int] | None, error: float, allowed: float, cause: str | None
) -> None:
    """Of W C with its singular vectors along the axes, of which rounding turns none: its entries off them are zeros."""
    A = np.array([row, [3.0, 0.0, 0.0, 0.0]])
    verdict = judge_directions(A, np.diag([8.0, 4.0, 2.0, 1.0]), np.eye(4), LOW)
    assert verdict is not None and verdict.passed is (at is None)
    assert verdict.error == pytest.approx(error) and verdict.allowed == pytest.approx(allowed)
    assert verdict.cause == cause and verdict.detects == 0.0
    assert at is None or verdict.index == at[:1]


def test_a_row_that_holds_what_W_C_does_not_see_is_turned_too() -> None:
    """W has fewer rows than columns; and the length of a row of A says nothing of its direction."""
    for length in (1.0, 0.5, 4.0):
        A = length * np.array([[0.8, 0.0, 0.6, 0.0], [0.0, 1.0, 0.0, 0.0]])
        verdict = judge_directions(A, np.diag([8.0, 4.0, 2.0, 1.0])[:2], np.eye(4), LOW)
        assert verdict is not None and not verdict.passed and verdict.index == (0,)
        assert verdict.error == pytest.approx(0.6)


def test_a_row_that_is_turned_within_its_bound_is_right() -> None:
    W, A = np.diag([8.0, 4.0, 2.0, 1.0]), np.eye(4)
    W[2, 3] = 0.05
    _, _, Vt = np.linalg.svd(W)
    A[2, 3] = 5e-4
    verdict = judge_directions(A @ Vt, W, np.eye(4), LOW)
    assert verdict is not None and verdict.passed and verdict.cause is None and verdict.index == (2,)
    assert verdict.error == pytest.approx(5e-4, rel=1e-3)
    A[3] = 0.6, 0.0, 0.0, 0.8
    verdict = judge_directions(A @ Vt, W, np.eye(4), LOW)
    assert verdict is not None and verdict.index == (3,) and verdict.error == pytest.approx(0.6)


def test_storing_a_row_turns_it_by_the_deviations_of_its_entries() -> None:
    angle, off = 0.5, 0.1
    c, s = math.cos(angle), math.sin(angle)
    V = np.array([[c, s], [-s, c]])
    W = np.diag([8.0, 1.0]) @ V
    A = np.array([[math.cos(off), math.sin(off)]]) @ V
    verdict = judge_directions(A, W, np.eye(2), LOW)
    assert verdict is not None and not verdict.passed and verdict.error == pytest.approx(math.sin(off))
    # each entry a of A is off by a deviation of its own, a part V of which lies along the other vector
    stored = 8.0 * DEVIATION * math.sqrt((A[0, 0] * V[1, 0]) ** 2 + (A[0, 1] * V[1, 1]) ** 2)
    before = _bounds(np.eye(2), np.array([8.0, 1.0]), V, W, np.eye(2), LOW)[0, 1]
    assert verdict.allowed == pytest.approx(before + stored, rel=1e-9)
    nothing = judge_directions(0.0 * A, W, np.eye(2), LOW)  # that it has no length is another verdict's
    assert nothing is not None and nothing.passed and nothing.error == 0.0


def test_rows_that_rounding_may_turn_by_more_than_a_quarter_are_not_judged() -> None:
    """The third and fourth singular value are close, and rounding mixes their vectors."""
    W = np.diag([8.0, 4.0, 2.0, 2.0])
    W[2, 3] = W[3, 2] = 0.01
    A, wrong = np.eye(4), np.eye(4)
    wrong[2, :2] = 0.6, 0.0
    Vt = np.linalg.svd(W)[2]
    free, told = (judge_directions(x @ Vt, W, np.eye(4), LOW) for x in (A, wrong))
    assert free is not None and free.passed and told is not None and told.passed  # row 2 is free
    assert judge_directions(A[2:] @ Vt, W, np.eye(4), LOW) is None
    wrong[1, 0] = 0.6
    told = judge_directions(wrong @ Vt, W, np.eye(4), LOW)
    assert told is not None and not told.passed and told.index == (1,)
    assert judge_directions(np.zeros((0, 4)), W, np.eye(4), LOW) is None
