"""Which rows of A are which of golden's, and what their error makes of a gradient: small cases by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.stages.gradient import UNKNOWN_G
from tlora_ref.oracle.stages.rows import Rows, _by_own, _of_length_one, rows_of, signed_permutation


def test_rows_are_found_in_another_order_and_with_other_signs() -> None:
    """Golden's rows lie along axes, of lengths 2, 1 and 4; the candidate's second is off inside and outside of them."""
    A = np.array([[2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 4.0, 0]])
    own = np.array([[0, 0, -4.0, 0], [0.05, -1.0, 0, 0.025], [2.0, 0, 0, 0]])
    found = _by_own(own, A, 3.0)
    assert isinstance(_by_own(np.eye(3, 4), A, 3.0), str)  # of other lengths: another A
    assert isinstance(found, Rows) and found.scale == 3.0
    assert found.turn.tolist() == [[0, 0, -1], [0, -1, 0], [1, 0, 0]]
    # minus the second row is golden's with -1/20 along the first axis, a fortieth of golden's first, and 1/40 outside
    np.testing.assert_allclose(found.inside, [[0, 0, 0], [0.025, 0, 0], [0, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(found.outside, [0, 0.025, 0], atol=1e-15)
    np.testing.assert_allclose(found.error, [[0] * 4, [0.05, 0, 0, 0.025], [0] * 4], atol=1e-15)


@pytest.mark.parametrize(("row", "off", "same"), [(0, 0.3, True), (0, 0.5, False), (1, 0.04, True), (1, 0.06, False)])
def test_a_row_is_golden_s_up_to_a_tenth_of_its_length(row: int, off: float, same: bool) -> None:
    A = np.array([[4.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    own = A.copy()
    own[row, 2] = off
    assert isinstance(_by_own(own, A, 1.0), Rows) is same


def test_a_row_of_no_length_has_no_direction() -> None:
    np.testing.assert_allclose(_of_length_one(np.array([[0.0, 0.0], [-3.0, 4.0]])), [[0.0, 0.0], [-0.6, 0.8]])


def test_a_long_row_is_itself_beside_a_short_one_of_nearly_its_direction() -> None:
    A = np.array([[2.0, 0.0], [0.3, 0.4]])
    found = _by_own(A[::-1], A, 1.0)
    assert isinstance(found, Rows) and found.turn.tolist() == [[0, 1], [1, 0]] and not found.error.any()


def test_the_likest_pair_comes_first() -> None:
    own, other = np.array([[0.8, 0.6], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -1.0]])
    assert signed_permutation(own, other).tolist() == [[0, -1], [1, 0]]  # 0.8 is more than 0.6, but 1 is more


def test_a_gradient_is_carried_off_by_golden_s_rows_and_by_what_is_not_known() -> None:
    grad = np.array([[3.0, -4.0], [1.0, 2.0]])  # rows of length 5 and sqrt(5)
    inside, outside = np.array([[0.1, 0.2], [0.3, 0.0]]), np.array([0.5, 0.25])
    rows = Rows(np.eye(2), 1.0, np.eye(2), inside, outside, np.zeros((2, 1)))
    beyond = UNKNOWN_G * 5.0 * outside
    expected = np.array([[0.3 + 0.8, 0.9], [0.1 + 0.4, 0.3]]) + beyond
    np.testing.assert_allclose(rows.gradient_error(grad), expected, rtol=1e-14)


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get = dict.__contains__, dict.__getitem__


@pytest.mark.parametrize(
    ("scale", "rank", "said"),
    [
        (3.0, 2, None),
        (3.0 * (1 + 3e-7), 2, None),  # within four roundings
        (3.0 * (1 - 3e-7), 2, None),
        (3.0 * (1 + 5e-7), 2, "scales"),
        (3.0 * (1 - 5e-7), 2, "scales"),
        (6.0, 2, "scales"),
        (3.0, 1, "ranks"),
    ],
)
def test_rows_are_comparable_at_golden_s_scale_and_rank(scale: float, rank: int, said: str | None) -> None:
    A = np.eye(2, 4)
    golden, candidate = Held({"A/m": A, "scale/m": 3.0}), Held({"A/m": A, "scale/m": scale, "rank/m": rank})
    found = rows_of(SimpleNamespace(golden=golden, candidate=candidate, unit=1e-7), "m")
    assert isinstance(found, Rows) if said is None else (isinstance(found, str) and said in found)
