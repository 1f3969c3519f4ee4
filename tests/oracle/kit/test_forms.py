"""The kit's cases are tall, wide and square in turn, and ranks stand in every order to the sides of their modules."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.kit.cases import FORMS
from tlora_ref.oracle.kit.run import Search, all_checks
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.checks import FAILED

Array = np.ndarray
#: Stage -> the rows and columns that its cases are tall, wide and square in.
SIDES: dict[str, Callable[..., tuple[int, int]]] = {
    "loss": lambda logits, labels: logits.shape,
    "covariance": lambda inputs: inputs[0].shape,
    "sensitivity": lambda W, gradients: W.shape,
    "allocate": lambda sensitivity, shapes, r_init, alpha: shapes[0],
    "initialize_a": lambda W, C, r: W.shape,
    "forward": lambda x, W, A, B, scale: W.shape,
    "grad_b": lambda x, dy, A, B, scale: (dy.shape[1], x.shape[1]),
    "adamw_step": lambda B, *rest, **named: B.shape,
    "train": lambda A, x, dy, scale, lr: (dy[0].shape[1], x[0].shape[1]),
    "merge": lambda W, A, B, scale: W.shape,
}


def form_of(rows: int, columns: int) -> str:
    return "square" if rows == columns else "tall" if rows > columns else "wide"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", SIDES)
def test_what_is_wrong_in_one_form_alone_is_wrong(stage: str, form: str) -> None:
    right = Reference()

    def planted(*given: Any, **named: Any) -> Any:
        output = getattr(right, stage)(*given, **named)
        if form_of(*SIDES[stage](*given, **named)) != form:
            return output
        first, *rest = output if isinstance(output, tuple) else (output,)
        bent = np.asarray(first) + 1
        return (bent, *rest) if rest else bent

    report = tr.check_implementation(SimpleNamespace(**{stage: planted}), examples=6, shrink=False)
    assert report.first_failing == stage and f"{stage}/typical" in {r.id for r in report.of(FAILED)}


def test_one_case_a_check_is_one_case_a_check() -> None:
    report = tr.check_implementation(Reference(), stages=["covariance"], examples=1)
    assert report.passed and {result.cases for result in report.results} == {1}


CUTS: dict[str, Callable[[Array, Any], Array]] = {
    "ranks are cut to d_out alone": lambda ranks, sides: np.minimum(ranks, sides[:, 0]),
    "ranks are cut to d_in alone": lambda ranks, sides: np.minimum(ranks, sides[:, 1]),
    "ranks are not cut to min(d_out, d_in)": lambda ranks, sides: ranks,
    "": lambda ranks, sides: np.minimum(ranks, sides.max(axis=1)),  # between two sides it looks like one of the others
}


@pytest.mark.parametrize("cause", CUTS)
def test_a_cut_to_the_wrong_side_is_wrong_and_named(cause: str) -> None:
    def allocate(sensitivity: Any, shapes: Any, r_init: int, alpha: float) -> Any:
        scales = Reference().allocate(sensitivity, shapes, r_init, alpha)[1]
        ranks = np.rint(len(sensitivity) * r_init * sensitivity / sensitivity.sum())
        return CUTS[cause](ranks, np.array(shapes)), scales

    report = tr.check_implementation(SimpleNamespace(allocate=allocate), shrink=False)
    assert report.first_failing == "allocate"
    assert {"allocate/above-inputs", "allocate/above-outputs"} & {r.id for r in report.of(FAILED)}
    assert not cause or cause in {r.cause for r in report.of(FAILED)}


def test_a_rank_stands_in_every_order_to_the_two_sides() -> None:
    orders: set[tuple[bool, bool, str]] = set()
    for check in all_checks().values():
        if check.stage == "allocate" and not check.refuses:

            def look(case: dict[str, Any]) -> None:
                S = case["sensitivity"]
                ranks = np.rint(len(S) * case["r_init"] * S / S.sum())
                for r, (d_out, d_in) in zip(ranks, case["shapes"], strict=True):
                    orders.add((r <= d_out, r <= d_in, form_of(d_out, d_in)))

            Search(None, check, "paper", Precision.of("float64"), 20, 0).each(look)
    both, none = (True, True), (False, False)
    assert orders >= {(*sides, form) for sides in (both, none) for form in FORMS}
    assert orders >= {(True, False, "tall"), (False, True, "wide")}
