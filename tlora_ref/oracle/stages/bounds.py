"""How far rounding may carry a result, and how a result is held against that.

A sum of k products a_i b_i formed in a precision of unit eps is off by at most about sqrt(k) eps sum|a_i||b_i|: the
rounding errors of its terms are independent enough for the square root, and SAFETY covers the largest of many entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.causes import Factor, Faint, Fitted
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.scalars import unwrapped
from tlora_ref.oracle.verdict import Verdict

SAFETY = 6.0
#: The reference computes in float64: its own rounding stands beside the candidate's.
OWN = 2.0**-52

#: What a slip looks like, and the output it would give (an array, or a number for a stage that gives one).
Slip = tuple[str, Callable[[], Any]]


def sum_error(magnitude: Array, k: int, precision: Precision) -> Array:
    """Bound on the error of sums of k products, `magnitude` = sum|a||b| entrywise."""
    relative = SAFETY * (math.sqrt(k) + 1.0) * (precision.accumulation + OWN) + 2.0 * precision.product
    return np.asarray(relative * magnitude + k * precision.tiny)


def stored(values: Array, precision: Precision) -> Array:
    """Bound on what rounding `values` to the storage loses, entrywise."""
    return np.asarray(precision.storage * np.abs(values) + precision.tiny)


def rounding_between(precision: Precision) -> float:
    """The relative rounding of what is kept between operations, where storage is coarser than the sums; else 0."""
    return precision.storage / 2.0 if precision.storage > precision.accumulation else 0.0


def as_array(value: object, shape: tuple[int, ...]) -> Array | str:
    """`value` as a float64 array of that shape, or what is wrong with it."""
    if value is None:
        return "no answer: None"
    try:
        array = np.asarray(value)
        if array.dtype.kind == "c":
            return "not an array of numbers: complex"
        array = unwrapped(array.astype(np.float64), shape)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"not an array of numbers: {type(value).__name__} ({str(error)[:80]})"
    if array.shape != shape:
        return f"shape {array.shape}, expected {shape}"
    if not np.isfinite(array).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        return f"holds {array[bad]} at {list(bad)}"
    return array


def malformed(stage: str, what: str, said: str) -> Verdict:
    """The verdict on an output that cannot be compared at all."""
    return Verdict(stage, what, False, math.inf, 0.0, cause=said)


def entries(stage: str, what: str, got: object, expected: Any, allowed: Any, slips: Iterable[Slip] = ()) -> Verdict:
    """Every entry of `got` within `allowed` of `expected`; the verdict tells of the worst.

    slips : gone through where that is wrong, and only then: they may be costly to make
    """
    expected = np.asarray(expected, dtype=np.float64)
    array = as_array(got, expected.shape)
    if isinstance(array, str):
        return malformed(stage, what, array)
    error = np.abs(array - expected)
    allowed = np.broadcast_to(allowed, expected.shape)
    with np.errstate(over="ignore"):  # infinitely beyond a tiny bound is beyond it
        excess = np.where(allowed > 0, error / np.where(allowed > 0, allowed, 1.0), np.where(error > 0, np.inf, 0.0))
    if excess.size == 0:
        return Verdict(stage, what, True)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))
    passed = bool(excess[index] <= 1.0)
    off, bound, here, right = (float(x[index]) for x in (error, allowed, array, expected))
    verdict = Verdict(stage, what, passed, off, bound, index, here, right, detects=_detected(allowed, expected))
    if passed:
        return verdict
    return verdict.blamed(fitting(array, expected, allowed, slips) + _factor(array, expected, allowed))


def _factor(got: Array, expected: Array, allowed: Array) -> Fits:
    """That all of it is so many times what it should be: fitted, by least squares."""
    size = _largest(expected)
    if size == 0.0:
        return []
    right = expected / size  # in the middle of the range
    with np.errstate(over="ignore"):
        times = float(((got / size) * right).sum() / (right * right).sum())
    more = float(f"{times - 1.0:.3g}")  # what is near 1 is told by how far it is from it
    said = f"{1.0 + more:.12g}" if abs(more) < 0.1 else f"{times:.5g}"
    if said in ("0", "1") or not math.isfinite(times):
        return []
    slips = [(Factor(f"it is {said} times what it should be"), lambda: times * expected)]
    return [(text, left + FITTED) for text, left in fitting(got, expected, allowed, slips)]


def _detected(allowed: Array, expected: Array) -> float | None:
    """The smallest share by which all entries can be off together for one of them to be wrong."""
    at = expected != 0.0
    with np.errstate(over="ignore"):  # of what is tiny, any bound is infinitely much
        return float((allowed[at] / np.abs(expected[at])).min()) if at.any() else None


def root_mean_square(
    stage: str, what: str, got: Array, expected: Array, allowed: float, slips: Iterable[Slip] = ()
) -> Verdict:
    """The root mean square of the error of all entries within `allowed`: rounding averages out, a mistake does not."""
    error = rms(got - expected)
    passed = error <= allowed
    size = rms(expected)
    detects = allowed / size if size else None
    verdict = Verdict(stage, f"{what}, root mean square", passed, error, allowed, None, rms(got), size, detects=detects)
    if passed:
        return verdict

    def room(other: Array) -> float:
        return 2.0 * allowed * max(1.0, rms(other) / size if size else 1.0)

    return verdict.blamed(_fitting(got, expected, slips, rms, room))


def both(first: Verdict, second: Verdict) -> Verdict:
    """The first that is wrong of two verdicts on one quantity; where both are right, what either would see."""
    if not (first.passed and second.passed):
        return second if first.passed else first
    seen = [v.detects for v in (first, second) if v.detects is not None]
    return replace(first, detects=min(seen, default=None))


def rms(x: Array) -> float:
    """The root of the mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def lower_median(values: Array) -> float:
    """The lower of the two in the middle; of nothing, nan."""
    return float(np.sort(values, axis=None)[(values.size - 1) // 2]) if values.size else math.nan


Fits = list[tuple[str, float]]


def fitting(got: Array, expected: Array, allowed: Array, slips: Iterable[Slip]) -> Fits:
    """The slips whose output is `got` to within what rounding would allow it, each with the share of the error left."""
    scale = _largest(expected) or 1.0

    def room(other: Array) -> float:
        return float(4.0 * np.max(allowed) * max(1.0, _largest(other) / scale))

    return _fitting(got, expected, slips, _largest, room)


#: What a fitted slip is taken to leave beside what it leaves: a number that is fitted fits.
FITTED = 0.01
#: A slip explains an error if it leaves no more than this share of it, and of what was got: beside a large error all
#: small outputs are alike.
LEFT = 0.1
#: One that leaves no more than this share of the error of so many entries explains it, however large the bound is.
CLOSE, MANY = 0.03, 16
#: One that leaves no more than this share of the root mean square of so many errors, and no more than noise may be,
#: explains them faintly.
RELATED = 0.35


def _fitting(
    got: Array,
    expected: Array,
    slips: Iterable[Slip],
    size: Callable[[Array], float],
    room: Callable[[Array], float],
) -> Fits:
    """The slips that leave no more than `room`, and little of the error: the best first, by the hundredth."""
    error, found = size(got - expected), list[tuple[str, float]]()
    for text, make in slips:
        other = np.asarray(make(), dtype=np.float64)
        if other.shape != got.shape or not np.isfinite(other).all():
            continue
        most = room(other)
        left = size(got - other)
        near = left <= min(most, LEFT * error, LEFT * max(size(got), size(other)))
        # a slip that changes nothing says nothing; one of many entries that leaves next to nothing does not coincide
        if near and (size(other - expected) > 4.0 * most or (got.size >= MANY and left <= CLOSE * error)):
            found.append((text, left / error if error else 0.0))
        elif (
            error
            and not isinstance(text, Fitted)
            and left <= most
            and (_related(got, expected, other) or (near and got.size < MANY))
        ):
            found.append((Faint(text), left / error))
    return sorted(found, key=lambda fit: round(fit[1], 2))


def _related(got: Array, expected: Array, other: Array) -> bool:
    """Whether the errors of many entries go the way of the slip, most of them: noise hides the rest."""
    unit = max(map(_largest, (got, expected, other))) or 1.0
    left, *sizes = (rms(x / unit) for x in (got - other, got - expected, got))
    return got.size >= MANY and left <= RELATED * min(sizes)  # beside a large error all small outputs are alike


def _largest(x: Array) -> float:
    return float(np.abs(x).max(initial=0.0))
