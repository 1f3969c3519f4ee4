"""The gradients' judge on a few numbers: its bound, what a step is made of, and whether A must have moved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.gradient import _matrices, _moves, judge_grad_b

A = np.array([[2.0, -1.0]])
X, DY = np.array([[3.0, 1.0], [-1.0, 2.0]]), np.array([[0.5], [-2.0]])


def test_a_gradient_may_be_off_by_what_is_stored_on_the_way() -> None:
    """x A^T is (5, -4): dL/dB is s (2.5 + 8). In the other order dy^T x is (3.5, -3.5)."""
    rough, scale = Precision("rough", np.dtype(np.float32), 2.0**-8, 0.0, 0.0), -2.0
    most = 2.0**-8 * (21.0 + 3 * 2.0 * (0.5 * 5 + 2.0 * 4) + 2.0 * (3.5 * 2 + 3.5 * 1))
    for off, passed in ((0.99, True), (-0.99, True), (1.01, False), (-1.01, False)):
        got = np.array([[-21.0 + off * most]])
        rules: dict[str, Any] = {"x": X, "dy": DY, "A": A, "B": np.zeros((1, 1)), "scale": scale}
        (verdict,) = judge_grad_b(got, **rules, switches=PROFILES["paper"], precision=rough)
        assert verdict.passed is passed and verdict.allowed == pytest.approx(most, rel=1e-9)
    sums = Precision("sums", np.dtype(np.float32), 0.0, 0.0, 2.0**-8)
    (verdict,) = judge_grad_b(got, **rules, switches=PROFILES["paper"], precision=sums)
    # |dy|^T (|x| |A|^T) is 0.5 * 7 + 2 * 4, twice; of two terms
    assert verdict.allowed == pytest.approx(6 * (2**0.5 + 1) * 2.0**-8 * 2 * 2.0 * 11.5, rel=1e-9)


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get, shapes = dict.__contains__, dict.__getitem__, {"m": (3, 5)}


def test_a_step_is_made_of_A_and_B_before_it_and_the_scale() -> None:
    B = np.ones((3, 1))
    held = {"scale/m": 2.0, "train/1/B/m": B}

    def of(step: int, own_A: Any = A, modules: tuple[str, ...] = ("m",), **left: Any) -> Any:
        c = Held({name: x for name, x in held.items() if name not in left.get("out", ())})
        case: Any = SimpleNamespace(candidate=c, golden=Held(), adapted=list(modules), A_before=lambda step, m: own_A)
        return _matrices(case, step)

    found = of(2)
    assert found[0]["m"] is A and found[1]["m"] is B and found[2] == {"m": 2.0}
    assert of(1)[1]["m"].tolist() == [[0.0]] * 3 and of(1, out=("train/1/B/m",)) is not None
    assert of(2, out=("train/1/B/m",)) is None and of(2, out=("scale/m",)) is None and of(1, out=("scale/m",)) is None
    assert of(2, own_A=None) is None and of(1, own_A=None) is None and of(2, modules=()) is None


def test_A_must_have_moved_where_golden_s_did_by_more_than_rounding_keeps() -> None:
    unit, first = 2.0**-8, np.array([[4.0, -2.0]])
    for step, off, moved in ((1, 0.99, False), (1, 1.01, True), (3, 2.9, False), (3, 3.1, True), (3, -3.1, True)):
        golden = Held({"A/m": first, f"train/{step}/A/m": first + np.array([[0.0, off * unit * 2.0]])})
        case: Any = SimpleNamespace(golden=golden, precision=SimpleNamespace(storage=unit))
        assert _moves(case, step, "m") is moved
        assert not _moves(case, step + 1, "m") and not _moves(case, step, "n")
