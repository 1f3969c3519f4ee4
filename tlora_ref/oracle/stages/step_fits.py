"""The update of one step in a low precision, from the entries of B of all modules together.

B after a step is B before, decayed, and the update, rounded, which no entry knows better than by a few hundredths. But
entries are rounded up as often as down. So by least squares all of them tell how often the update is in B, and what
every entry has besides, to a few ten-thousandths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.directions import DEVIATIONS
from tlora_ref.oracle.stages.moments import update_with_errors
from tlora_ref.oracle.stages.network import kept_in
from tlora_ref.oracle.verdict import Verdict

#: Of so many entries at least the rest of a fit tells its error, and so long an update, in spacings of B's numbers, is
#: rounded as often up as down; a shorter one may vanish.
ENTRIES, RESOLVED = 100, 4.0
#: What all updates may have too much for one reason, in spacings: the learning rate and both bias corrections (one of
#: them under a root) are rounded by half a spacing each, and so is a quotient where all are as long, as at first.
SCALARS = 0.5 + 0.5 + 0.25 + 0.5
#: And all entries, of the size of an update: rounding knows no sign, but signs need not be as often one as the other.
SIGNS = 0.25
#: Entries of B that lie alike between two numbers of the storage are rounded alike: as much as they stand together, in
#: one place or evenly in up to four, by up to half a spacing; twice that is allowed.
PLACES = np.arange(1, 5)
#: Where nearly all updates are the same number, the two are not told apart.
CONDITION = 1e3


@dataclass(frozen=True)
class Fit:
    """Normal equations of error = rate * update + offset over weighted entries of matrices.

    Attributes
    ----------
    gram : (2, 2)
    moment, lost : (2,), of the error, and of what the matrix before the step may have been off by
    together : (2, places), of spacings turned by where between two numbers an entry lies; short where that is anywhere
    square, entries : of the errors, and how many they are
    """

    gram: Array
    moment: Array
    lost: Array
    together: Array
    square: float
    entries: int

    def __add__(self, other: Fit) -> Fit:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Fit(*(mine + theirs for mine, theirs in pairs))


def fit_of(got: Array, B: Array, m: Array, v: Array, settings: Mapping[str, Any], precision: Precision) -> Fit:
    """Of one matrix: B after (`got`) and before a step, its new moments, all (d_out, r).

    settings : those of `adamw_step`
    """
    correction, lr = 1.0 - settings["betas"][1] ** settings["step"], settings["lr"]
    expected, errors = update_with_errors(B, m, v, settings, correction, precision)
    decay = lr * settings["weight_decay"]
    update = expected - B * (1.0 - decay)
    spacing = np.maximum(precision.spacing(expected), precision.spacing(B))
    # moments that the storage has no digits for tell nothing of the update
    known = (np.abs(update) >= RESOLVED * spacing) & (v >= precision.tiny) & (np.abs(m) >= precision.tiny)
    weight, sign, spacing = 1.0 / errors[known], np.sign(update[known]), spacing[known]
    columns = np.stack([update[known] * weight, weight], axis=1)  # (entries, 2)
    off = (got - expected)[known] * weight
    place = sign * expected[known] / spacing  # -x is rounded as x is
    turned = np.exp(2j * np.pi * np.outer(place, PLACES))  # (entries, places)
    together = (columns * (sign * spacing * weight)[:, None]).T @ turned
    # 1 - decay is next to 1, and may be rounded to it; beside finer moments B may be a copy of a finer matrix
    copied = min(kept_in(precision, m), kept_in(precision, v)) < precision.storage
    before = np.abs(B[known]) * (decay + 0.5 * precision.storage * copied)
    lost = np.abs(columns).T @ (before * weight)
    return Fit(columns.T @ columns, columns.T @ off, lost, together, float(off @ off), len(off))


def judge_fit(fits: Sequence[Fit], step: int, precision: Precision) -> list[Verdict]:
    """How often the update of a step is in B, against once, and what every entry has besides, in updates.

    Nothing where too few entries tell it.
    """
    if not fits:
        return []
    whole = sum(fits[1:], start=fits[0])
    sizes = np.sqrt(np.diag(whole.gram))
    if whole.entries < ENTRIES or not sizes.all():
        return []
    scaled = whole.gram / np.outer(sizes, sizes)
    if np.linalg.cond(scaled) > CONDITION:
        return []
    inverse = np.linalg.inv(scaled)
    found = inverse @ (whole.moment / sizes)  # of columns of length 1
    spread = max(0.0, whole.square - float(found @ (whole.moment / sizes))) / (whole.entries - 2)
    deviations = np.sqrt(spread * np.diag(inverse))
    update = sizes[0] / sizes[1]  # the root of the mean square of the updates
    unit = np.array([1.0, update])  # of the offset: in updates
    rate, offset = (float(x) for x in found / sizes / unit)
    alike = whole.lost + np.abs(whole.together).max(axis=1)
    allowed = DEVIATIONS * deviations / sizes / unit + alike / sizes**2 / unit
    most = allowed + precision.storage * np.array([SCALARS, SIGNS])
    return [
        _verdict(f"how often the update of step {step} is made", rate, float(most[0]), 1.0, _rate(rate)),
        _verdict(f"what every entry of B has besides the update of step {step}", offset, float(most[1]), 0.0,
                 _offset(step)),
    ]  # fmt: skip


def _rate(rate: float) -> str:
    return f"the learning rate is {1.0 + rate:.2f} times what it should be"


def _offset(step: int) -> str:
    return "B does not start at zero" if step == 1 else "the same number is added to all entries of B"


def _verdict(what: str, off: float, allowed: float, right: float, cause: str) -> Verdict:
    error = abs(off)
    seen = allowed if right else None  # what is added is no share of B
    verdict = Verdict("adamw_step", what, error <= allowed, error, allowed, None, right + off, right, detects=seen)
    return verdict if verdict.passed else verdict.blamed([(cause, 0.0)])
