"""A cause explains all that fails, or says how much of it."""

from __future__ import annotations

import numpy as np

import tlora_ref as tr
from tlora_ref.oracle.causes import Factor, Faint, Fitted, claim, explaining, known
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.stages.bounds import entries, root_mean_square


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


def test_what_explains_small_and_awkward_cases_alone_is_no_cause() -> None:
    alike, other = {"left out": 0.0}, dict[str, float]()
    found = [alike] * 6 + [alike, other, other, other]  # the last four are the typical ones
    assert claim(found) == "left out (7 of 10)"
    assert claim(found, typical=range(6, 10)) is None
    assert claim(found, typical=range(5, 10)) == "left out (7 of 10)"  # two of five
    fitted = [{Fitted("eps is 1e-06, not 1e-08"): 0.01}] * 6 + [other] * 4  # that they agree is no chance
    assert claim(fitted, typical=range(6, 10)) == "eps is 1e-06, not 1e-08 (6 of 10)"
    assert claim([*found, {"a": 0.0}, {"a": 0.0}], typical=[0, 8, 10]) == "left out (7 of 12); a (2 of 12)"


def test_faint_causes_are_a_claim_where_three_agree() -> None:
    faint, other = {Faint("over N - 1"): 0.05}, {Faint("the last is lost"): 0.04}
    assert claim([faint] * 3) == claim([faint, faint, faint, {}, {}]).replace(" (3 of 5)", "") == "over N - 1"  # type: ignore[union-attr]
    assert claim([faint]) is None and claim([faint] * 2) is None
    assert claim([faint, faint, other, {}]) is None
    assert claim([faint | other] * 2 + [faint] * 2) == "over N - 1"
    assert claim([faint, {"over N - 1": 0.05}]) == "over N - 1"  # one is told by itself
    assert claim([{"summed": 0.0}, faint]) == "summed (1 of 2)"


def test_a_factor_is_said_where_nothing_else_explains() -> None:
    twice, slip = Factor("it is 2 times what it should be"), {"summed": 0.0}
    assert claim([{twice: 0.01}] * 3) == "it is 2 times what it should be"
    assert claim([{twice: 0.01} | slip, {twice: 0.01}]) == "summed (1 of 2)"
    assert claim([{twice: 0.01}, {Factor("it is 3 times what it should be"): 0.01}, {}]) is None  # another each time
    assert known([{twice: 0.01} | slip]) == [slip]


def test_a_factor_is_found_by_least_squares() -> None:
    right = np.array([1e300, -2e300, 0.0])
    assert entries("loss", "entries", 0.375 * right, right, 1e280).cause == "it is 0.375 times what it should be"
    assert entries("loss", "entries", 0.375 * right + 1e299, right, 1e280).cause is None
    assert entries("loss", "entries", right[::-1], right, 1e280).cause is None  # 0 times
    assert entries("loss", "entries", (1.0 + 1e-13) * right, right, 1e280).cause is None  # no digit of it would be told
    assert entries("loss", "entries", np.ones(3), np.zeros(3), 1e-9).cause is None
    tenth = entries("loss", "entries", 0.9999876543 * right, right, 1e290)
    assert tenth.cause == "it is 0.9999877 times what it should be"  # three digits of what is off
    assert entries("loss", "entries", -right, right, 1e280).cause == "it is -1 times what it should be"


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


class NextForLast(Reference):
    """The singular vector after A's last row in its place: of one row this is A without the first vector."""

    def initialize_a(self, W, C, r):  # type: ignore[no-untyped-def]
        V = np.linalg.svd(W @ C)[2]
        return np.concatenate([V[: r - 1], V[r : r + 1]]) if r < len(V) else V[:r]


def test_a_last_row_that_is_another_is_not_taken_for_what_it_is_where_A_has_one_row() -> None:
    report = tr.check_implementation(NextForLast(), stages=["initialize_a"], examples=9)
    one = next(r for r in report.results if r.id == "initialize_a/one-output")
    assert one.cause is not None and one.cause.startswith("A leaves out the first singular vector")
    assert str(report.cause).startswith("A's last row is the singular vector after its own")


class LastLeftOut(Reference):
    """C and S of all samples but the last."""

    def covariance(self, inputs):  # type: ignore[no-untyped-def]
        return super().covariance(inputs[:-1] or inputs)

    def sensitivity(self, W, gradients):  # type: ignore[no-untyped-def]
        return super().sensitivity(W, gradients[:-1] or gradients)


def test_a_sample_that_is_left_out_is_named() -> None:
    report = tr.check_implementation(LastLeftOut(), stages=["covariance", "sensitivity"], examples=9)
    said = report.cause_of("covariance"), report.cause_of("sensitivity")
    assert said == ("C leaves out the last sample", "S leaves out the last sample")


def test_check_names_the_mistakes_of_two_stages() -> None:
    report = tr.check_implementation(TwoMistakes(), stages=["covariance", "merge"], examples=3, shrink=False)
    assert "summed" in report.headline and "merge is wrong too: the update is subtracted" in report.headline


def test_a_slip_that_leaves_next_to_nothing_of_many_entries_is_named_beside_a_wide_bound() -> None:
    """In bfloat16 an error may be a few bounds alone. One number coincides with some slip sooner or later."""
    right = np.linspace(1.0, 2.0, 20)
    got, wide = 1.5 * right + 1e-3, np.full(20, 0.2)
    slips = [("half as much again", lambda: 1.5 * right), ("doubled", lambda: 2.0 * right), ("right", lambda: right)]
    assert entries("loss", "entries", got, right, wide, slips).cause == "half as much again"
    few = [(text, lambda make=make: make()[:5]) for text, make in slips]
    assert entries("loss", "entries", got[:5], right[:5], wide[:5], few).cause is None
    assert entries("loss", "entries", got + 0.05, right, wide, slips).cause == "it is 1.5327 times what it should be"
    together = root_mean_square(
        "loss", "entries", 9.0 * right + 0.1, right, 0.06, [("nine times", lambda: 9.0 * right)]
    )
    assert together.cause == "nine times"  # what is larger is off by more


def test_a_fitted_number_that_changes_from_finding_to_finding_is_no_setting() -> None:
    scattered = [{Fitted(f"the gradient is used {n} times"): 0.01} for n in (4.47, 4.5, 5.46, 5.52)]
    assert claim(scattered) is None
    assert claim([{**fit, "clipped by the largest entry": 0.0} for fit in scattered]) == "clipped by the largest entry"
    agreed = [{Fitted("beta1 is 0.95, not 0.9"): 0.01}] * 3 + [{Fitted("beta1 is 0.951, not 0.9"): 0.01}]
    assert claim(agreed) == "beta1 is 0.95, not 0.9 (3 of 4)"
    assert claim([{Fitted("eps is 0.0001, not 1e-08"): 0.01}] * 2) == "eps is 0.0001, not 1e-08"
