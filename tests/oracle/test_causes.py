"""A cause explains all that fails, or says how much of it."""

from __future__ import annotations

import numpy as np

import tlora_ref as tr
from tlora_ref.oracle.causes import claim, explaining
from tlora_ref.oracle.implementation import Reference


def test_a_slip_that_explains_everything_is_named_before_one_that_coincides_with_it_here_and_there() -> None:
    both, one = {"summed": 0.0, "over N - 1": 0.0}, {"over N - 1": 0.0}
    assert claim([both, one, both]) == "over N - 1"
    assert claim([both, both]) == "summed (or, here the same: over N - 1)"  # nothing tells them apart


def test_of_slips_that_explain_as_much_the_one_that_leaves_least_is_named() -> None:
    assert claim([{"far": 0.09, "near": 0.001}, {"near": 0.002, "far": 0.08}]) == "near"


def test_what_is_not_explained_is_counted_and_too_little_is_no_cause() -> None:
    assert claim([{"a": 0.0}, {"a": 0.0}, {}]) == "a (2 of 3)"
    assert claim([{"a": 0.0}, {}, {}]) is None
    assert claim([]) is None and claim([{}, {}]) is None


def test_two_mistakes_are_both_named() -> None:
    found = [{"not clipped": 0.0}] * 4 + [{"not decayed": 0.0}] * 2
    assert explaining(found) == [("not clipped", 4), ("not decayed", 2)]
    assert claim(found) == "not clipped (4 of 6); not decayed (2 of 6)"
    assert claim([{"a": 0.0}] * 19 + [{"b": 0.0}]) == "a (19 of 20)"  # one of many is chance


class OverOneLess(Reference):
    """C / (N - 1): with two samples that is C summed, and two samples are the smallest case."""

    def covariance(self, inputs):  # type: ignore[no-untyped-def]
        return super().covariance(inputs) * len(inputs) / max(1, len(inputs) - 1)


class TwoMistakes(Reference):
    """Covariances summed, and merged by subtraction."""

    def covariance(self, inputs):  # type: ignore[no-untyped-def]
        return super().covariance(inputs) * len(inputs)

    def merge(self, W, A, B, scale):  # type: ignore[no-untyped-def]
        return np.asarray(W - scale * B @ A)


def test_check_votes_over_the_failing_cases() -> None:
    report = tr.check_implementation(OverOneLess(), stages=["covariance"], examples=9)
    assert report.cause is not None and report.cause.startswith("C is divided by N - 1")
    smallest = next(r for r in report.results if r.id == "covariance/typical")
    assert smallest.verdict is not None and "N - 1" in smallest.line() and "summed" not in smallest.line()


def test_check_names_the_mistakes_of_two_stages() -> None:
    report = tr.check_implementation(TwoMistakes(), stages=["covariance", "merge"], examples=3, shrink=False)
    assert "summed" in report.headline and "merge is wrong too: the update is subtracted" in report.headline
