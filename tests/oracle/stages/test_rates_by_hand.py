"""The fit of each step's learning rate, held against the normal equations: small updates whose errors are known."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.step_rates import judge_rates
from tlora_ref.oracle.verdict import Verdict

BETAS = (0.9, 0.999)


def scalars(step: int) -> float:
    """What rounding beta, and beta^t, to float32 makes of a step's update, and eight roundings: in exact numbers."""
    off, ulp = Fraction(8, 2**23), Fraction(1, 2**24)
    for beta, weight in ((Fraction(9, 10), 1), (Fraction(999, 1000), Fraction(1, 2))):
        nearest = round(beta / ulp) * ulp  # float32 has 24 bits, from a half to one all behind the point
        off += weight * abs(nearest - beta) / (1 - beta)
        off += weight * ulp / (1 - beta**step) if step > 1 else 0
    return float(off)


def updates(entries: int = 40) -> list[Array]:
    """Of three steps, the second of which has no learning rate; no two entries alike, and not orthogonal."""
    first, last = np.sin(np.arange(1.0, entries + 1)), np.cos(2.0 * np.arange(1.0, entries + 1)) + 0.25
    return [1e-2 * first[:, None], np.zeros((entries, 1)), 4e-2 * last[:, None]]


def errors(entries: int = 40) -> Array:
    found = 0.3 * 2.0 ** -(np.arange(entries) % 3)[:, None]  # their size does not matter
    found[5] = 0.0  # an entry of which nothing is known, and which does not count
    return found


def fitted(off: Array, columns: list[Array], weights: Array) -> tuple[Array, Array]:
    """Shares and their standard deviations by the normal equations, of weighted columns."""
    X = np.stack([c.ravel() for c in columns], axis=1) * weights[:, None]
    y = off.ravel() * weights
    gram = X.T @ X
    shares = np.linalg.solve(gram, X.T @ y)
    left = y - X @ shares
    return shares, np.sqrt(np.diag(np.linalg.inv(gram)) * (left @ left) / ((weights > 0.0).sum() - X.shape[1]))


def judged(got: Array, made: list[Array], off: Array, dtype: str = "float32") -> Verdict | None:
    return judge_rates(got, made, off, BETAS, Precision.of(dtype))


@pytest.mark.parametrize(
    ("shares", "passed", "named"),
    [
        ((0.0, 0.0), True, False),
        ((1e-3, 1e-3), False, True),
        ((-1e-3, -1e-3), False, True),
        ((0.0, 2e-3), False, False),
        ((3e-3, 0.0), False, False),
        ((1e-2, 1.02e-2), False, False),  # by their bounds the first is further off
    ],
)
def test_shares_and_bounds_are_those_of_the_normal_equations(
    shares: tuple[float, float], passed: bool, named: bool
) -> None:
    made, off = updates(), errors()
    noise = 1e-7 * np.sin(7.0 * np.arange(40.0) ** 2)[:, None]
    noise[5] = 1.0  # it has no weight
    got = made[0] * (1.0 + shares[0]) + made[2] * (1.0 + shares[1]) + noise
    weights = np.array([0.0 if e == 0.0 else 1.0 / e for e in off.ravel()])
    found, deviations = fitted(got - made[0] - made[2], [made[0], made[2]], weights)
    allowed = 8.0 * deviations + [scalars(1), scalars(3)]
    assert (8.0 * deviations > 0.1 * allowed).all() and (8.0 * deviations < 0.99 * allowed).all()  # both parts show
    verdict = judged(got, made, off)
    assert verdict is not None and verdict.passed is passed
    best = 1.0 + found[int(allowed[0] > allowed[1])]
    assert verdict.fits == (((f"the learning rate is {best:.6g} times what it should be", 0.0),) if named else ())
    worst = max((0, 1), key=lambda i: abs(found[i]) / allowed[i])
    assert verdict.index == ((0, 2)[worst],) and verdict.expected == 1.0 and verdict.stage == "train"
    assert verdict.error == pytest.approx(abs(found[worst]), rel=1e-6)
    assert verdict.got == pytest.approx(1.0 + found[worst], abs=1e-12)
    assert verdict.allowed == pytest.approx(allowed[worst], rel=1e-6)
    assert verdict.detects == pytest.approx(min(allowed), rel=1e-6)


def test_what_float32_makes_of_a_step_s_numbers_is_allowed() -> None:
    """Where B is the updates to the last bit, nothing else is."""
    for step in (1, 2, 5):
        made = [np.zeros((40, 1))] * (step - 1) + updates()[:1]
        verdict = judged(made[-1], made, np.ones((40, 1)))
        assert verdict is not None and verdict.passed and verdict.index == (step - 1,)
        assert verdict.allowed == pytest.approx(scalars(step), rel=1e-9)


def test_thirty_entries_more_than_steps_are_enough() -> None:
    for entries, told in ((33, True), (32, False)):  # one of them is not known
        made = updates(entries)
        assert (judged(made[0] + made[2], made, errors(entries)) is not None) is told


def test_updates_that_are_nearly_the_same_are_not_told_apart() -> None:
    """Of two columns of length 1 at an angle of cosine c the condition is sqrt((1 + c) / (1 - c)), about 2 / angle."""
    first, other = np.tile([1.0, 0.0], 20)[:, None], np.tile([0.0, 1.0], 20)[:, None]
    for angle, told in ((2.0 / 9e3, True), (2.0 / 1.1e4, False)):
        made = [first, 3.0 * (math.cos(angle) * first + math.sin(angle) * other)]
        assert (judged(made[0] + made[1], made, np.ones((40, 1))) is not None) is told


@pytest.mark.filterwarnings("ignore:overflow")
def test_nothing_is_said_where_no_entry_tells_a_step_or_the_precision_is_another() -> None:
    made = updates()
    whole, off = made[0] + made[2], errors()
    single = np.zeros((40, 1))
    single[5] = 1.0  # an update of the entry of which nothing is known
    assert judged(whole + single, [*made, single], off) is None
    assert judged(whole, made, np.where(off == 0.0, 1e-310, off)) is None  # one over it is infinite
    assert judged(0.0 * whole, [0.0 * x for x in made], off) is None
    told = {d: judged(whole, made, off, d) is not None for d in ("float64", "float32", "tf32", "bfloat16", "float16")}
    assert told == {"float64": False, "float32": True, "tf32": True, "bfloat16": False, "float16": False}
