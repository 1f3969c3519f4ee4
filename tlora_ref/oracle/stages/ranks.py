"""Stage "ranks" (Eq. 6): exact, but where a score lies within its own error of a rounding tie.

Judged by the candidate's own S where it recorded them all, else by the golden S; and against the golden ranks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from tlora_ref import algorithm
from tlora_ref.backend import Array
from tlora_ref.errors import NumericsError
from tlora_ref.method import allocation
from tlora_ref.method.switches import PROFILES, Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, OWN_INPUTS, Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, as_array, entries, fitting, malformed
from tlora_ref.oracle.stages.sensitivity import mean_error
from tlora_ref.oracle.stages.sides import Sides, named
from tlora_ref.oracle.verdict import Verdict

#: Ties are few: beyond this many at once, only the first are tried both ways.
MOST_TIES = 10


def findings(sides: Sides) -> list[Finding]:
    """Ranks from the candidate's own S (Eq. 6), and against the golden ranks: those used, and those of Eq. 6 alone."""
    g, c, modules = sides.golden, sides.candidate, list(sides.golden.shapes)
    if not all(c.has(f"rank/{m}") for m in modules) or not g.modules("sensitivity"):
        return [sides.skipped("ranks", None, "not recorded for every module")]
    dims = list(g.shapes.values())
    found = _found(sides, "rank", "ranks", dims, sides.switches)
    if all(c.has(f"rank_eq6/{m}") for m in modules):
        plain = replace(sides.switches, remainder="none", rank_floor=0, redistribute=False)
        found += _found(sides, "rank_eq6", "ranks of Eq. 6", [(2**31, 2**31)] * len(modules), plain)
    return found


def _found(sides: Sides, kind: str, what: str, dims: Sequence[tuple[int, int]], switches: Switches) -> list[Finding]:
    """One kind of ranks by the candidate's own S where it has them all; and by golden's, with the error of S."""
    g, c, modules, r_init = sides.golden, sides.candidate, list(sides.golden.shapes), sides.golden.manifest.r_init
    ranks = np.array([float(c.get(f"{kind}/{m}")) for m in modules])
    (S, source), found = sides.scores(), []
    if source == OWN_INPUTS:
        verdict = replace(judge_ranks(ranks, S, dims, r_init, switches, sides.precision), what=what)
        found.append(sides.finding("ranks", OWN_INPUTS, named(modules, verdict), verdict))
    golden_S = S if source == GOLDEN else np.array([float(g.get(f"sensitivity/{m}")) for m in modules])
    right = next(admissible_ranks(golden_S, [*dims], r_init, switches, Precision.of("float64")))
    if all(g.has(f"{kind}/{m}") for m in modules):
        right = np.array([float(g.get(f"{kind}/{m}")) for m in modules])
    verdict = entries("ranks", what, ranks, right, _open(sides, golden_S, switches))
    if not verdict.passed and source == GOLDEN:
        verdict = verdict.blamed(fitting(ranks, right, np.zeros(1), rank_slips(S, [*dims], r_init, switches)))
    return [*found, sides.finding("ranks", GOLDEN, named(modules, verdict), verdict)]


def share_errors(sides: Sides, S: Array) -> Array:
    """How far the share of each module of golden's S may be off in the candidate: by its score and by their sum."""
    scores = zip(sides.golden.shapes, S, strict=True)
    off = np.array([sides.network("sensitivity", m, s) + mean_error(sides, m, s) for m, s in scores])
    return np.asarray((off + allocation.shares(S) * off.sum()) / S.sum())


def rounded_otherwise(exact: Array, error: Array) -> Array:
    """How many whole numbers rounding to the nearest may be off, where `exact` is off by `error`."""
    here = np.rint(exact)
    return np.maximum(np.rint(exact + error) - here, here - np.rint(exact - error))


def _open(sides: Sides, S: Array, switches: Switches) -> Array:
    """How many ranks each module may be off, for the candidate's own error in S carries shares over rounding ties."""
    exact = len(S) * sides.golden.manifest.r_init * allocation.shares(S)
    error = len(S) * sides.golden.manifest.r_init * share_errors(sides, S)
    off = rounded_otherwise(exact, error)
    total = off.sum()
    if switches.redistribute:
        return np.full(len(S), total)
    if switches.remainder == "largest" and total:  # what the others round otherwise, the largest make up for
        rest = abs(exact.sum() - np.rint(exact).sum())
        total = min(total, len(S) / 2.0 + rest)  # every remainder is a sum of L roundings
        off = np.where(exact >= exact.max() - total - rest - 1.0, off + total, off)
    return off


def judge_ranks(
    got: object, S: Array, shapes: Sequence[tuple[int, int]], r_init: int, switches: Switches, precision: Precision
) -> Verdict:
    """Eq. 6 and the switches' rules for what it leaves open."""
    dims = [(int(a), int(b)) for a, b in shapes]
    right = list(admissible_ranks(S, dims, r_init, switches, precision))
    array = as_array(got, S.shape)
    if isinstance(array, str):
        return malformed("allocate", "ranks", array)
    distances = [np.abs(array - ranks) for ranks in right]
    best = min(range(len(right)), key=lambda i: (float(distances[i].max()), int((distances[i] > 0).sum())))
    index = (int(np.argmax(distances[best])),)
    error = float(distances[best][index])
    got_here, right_here = float(array[index]), float(right[best][index])
    verdict = Verdict("allocate", "ranks", error == 0.0, error, 0.0, index, got_here, right_here)
    if verdict.passed:
        return verdict
    return verdict.blamed(fitting(array, right[0], np.zeros(1), rank_slips(S, dims, r_init, switches)))


def admissible_ranks(
    S: Array, shapes: list[tuple[int, int]], r_init: int, switches: Switches, precision: Precision
) -> Iterator[Array]:
    """Every vector of ranks that a right implementation of this precision may give, the reference's own first."""
    R_total = len(S) * r_init
    share, rank_eq6 = allocation.shares(S), allocation.ranks(S, R_total)
    either = [i for i in range(len(S)) if _is_open_tie(S, i, R_total, precision)][:MOST_TIES]
    for choice in itertools.product((0, 1), repeat=len(either)):
        ranks = rank_eq6.copy()
        for i, other in zip(either, choice, strict=True):
            exact = R_total * share[i]
            ranks[i] = rank_eq6[i] if not other else 2 * math.floor(exact + 0.25) + 1 - rank_eq6[i]
        yield algorithm.used_ranks(ranks, share, shapes, R_total, switches)[1]


def _is_open_tie(S: Array, i: int, R_total: int, precision: Precision) -> bool:
    """Whether R_total * share_i is so near to a half that rounding in this precision decides.

    A tie whose every intermediate is exact in the precision is not open: it goes to even in any order of arithmetic.
    """
    total = sum((Fraction(float(s)) for s in S), start=Fraction(0))
    exact = R_total * Fraction(float(S[i])) / total
    distance = abs(exact - math.floor(exact) - Fraction(1, 2))
    unit = max(precision.accumulation, OWN)
    if distance == 0:
        steps = (total, Fraction(float(S[i])) / total, R_total * Fraction(float(S[i])), R_total / total)
        return not all(_representable(step, unit) for step in steps)
    return float(distance) <= SAFETY * (math.sqrt(len(S)) + 3.0) * unit * max(1.0, float(exact))


def _representable(value: Fraction, unit: float) -> bool:
    """Whether `value` is a binary fraction of a mantissa that fits the precision."""
    bits = round(-math.log2(unit)) + 1
    odd = value.numerator // (value.numerator & -value.numerator)
    return value.denominator & (value.denominator - 1) == 0 and odd.bit_length() <= bits


def rank_slips(S: Array, shapes: list[tuple[int, int]], r_init: int, switches: Switches) -> list[Slip]:
    """What the ranks would be after each known slip."""
    R_total, share = len(S) * r_init, allocation.shares(S)
    exact = R_total * share

    def finished(ranks: Array, rules: Switches = switches) -> Array:
        try:
            return algorithm.used_ranks(ranks.astype(np.int64), share, shapes, R_total, rules)[1]
        except NumericsError:
            return ranks

    eq6, other = np.rint(exact), PROFILES["paper" if switches.remainder == "largest" else "released"]
    return [
        # ties first: without one they change nothing, and where all shares are ties they look like floor and ceil
        ("ties go away from zero, not to even", lambda: finished(np.floor(exact + 0.5))),
        ("ties go down, not to even", lambda: finished(np.ceil(exact - 0.5))),
        ("the share is cut off, not rounded (floor)", lambda: finished(np.floor(exact))),
        ("the share is rounded up (ceil)", lambda: finished(np.ceil(exact))),
        (f"the rules are those of the `{other.name}` profile", lambda: finished(eq6, other)),
        (
            "the remainder is settled: matches the `released` switch (`remainder`)",
            lambda: _capped(allocation.settle_remainder(eq6.astype(np.int64), R_total), shapes),
        ),
        ("the remainder is given to the last module", lambda: _last_takes(finished(eq6), R_total)),
        ("the remainder is settled by the largest fractions", lambda: finished(_by_fractions(exact))),
        *_changed_ranks(eq6, exact, shapes, r_init, finished),
        ("what the cap cuts off is redistributed", lambda: _redistributed(eq6, share, shapes)),
        *_share_slips(S, shapes, r_init, finished),
    ]


def _changed_ranks(
    eq6: Array, exact: Array, shapes: list[tuple[int, int]], r_init: int, finished: Callable[[Array], Array]
) -> list[Slip]:
    """What the ranks would be if they were moved, raised or cut otherwise."""
    return [
        ("every module has at least rank 1", lambda: np.maximum(finished(eq6), 1)),
        ("every module has at least rank 2", lambda: np.maximum(finished(eq6), 2)),
        ("ranks are one higher", lambda: finished(eq6 + 1)),
        ("ranks are even", lambda: finished(2 * np.rint(exact / 2))),
        ("ranks are a power of two", lambda: finished(2 ** np.rint(np.log2(np.maximum(exact, 1))))),
        ("ranks are cut to twice r_init", lambda: np.minimum(finished(eq6), 2 * r_init)),
        ("half the budget is given", lambda: finished(np.rint(exact / 2))),
        ("ranks are not cut to min(d_out, d_in)", lambda: eq6),
        ("ranks are cut to d_out alone", lambda: np.minimum(eq6, [s[0] for s in shapes])),
        ("ranks are cut to d_in alone", lambda: np.minimum(eq6, [s[1] for s in shapes])),
        ("ranks are cut to r_init", lambda: np.minimum(finished(eq6), r_init)),
    ]


def _share_slips(
    S: Array, shapes: list[tuple[int, int]], r_init: int, finished: Callable[[Array], Array]
) -> list[Slip]:
    """What the ranks would be for another share of the budget, or another budget."""
    L, R_total = len(S), len(S) * r_init
    sizes, ends = np.array([a * b for a, b in shapes]), np.array([a + b for a, b in shapes])

    def by(values: Array) -> Array:
        return finished(np.rint(R_total * normalised(values)))

    return [
        ("every module has rank r_init: the ranks are not adapted", lambda: np.full(L, r_init)),
        ("the budget is (L - 1) r_init", lambda: finished(np.rint((L - 1) * r_init * normalised(S)))),
        ("the budget is (L + 1) r_init", lambda: finished(np.rint((L + 1) * r_init * normalised(S)))),
        (
            "the budget is of parameters, not of ranks",
            lambda: finished(np.rint(r_init * ends.sum() * normalised(S) / ends)),
        ),
        ("half of every rank is r_init", lambda: finished(np.rint((R_total * normalised(S) + r_init) / 2))),
        ("the budget is r_init, not L r_init", lambda: finished(np.rint(r_init * normalised(S)))),
        ("shares of the squared sensitivities", lambda: by(S * S)),
        ("shares of the root of the sensitivities", lambda: by(np.sqrt(S))),
        ("shares of the logarithms of the sensitivities", lambda: by(np.log1p(S))),
        ("shares of the logarithms of S over its mean", lambda: by(np.log1p(S / (S.mean() or 1.0)))),
        ("the shares are rounded to hundredths", lambda: by(np.rint(100.0 * normalised(S)))),
        ("shares by softmax", lambda: by(np.exp(S - S.max()))),
        ("shares by softmax of S over its mean", lambda: by(np.exp((S - S.max()) / (S.mean() or 1.0)))),
        ("shares of the inverse sensitivities", lambda: by(1.0 / np.maximum(S, 1e-300))),
        ("shares of the largest sensitivity, not of the sum", lambda: finished(np.rint(r_init * S / S.max()))),
        ("ranks are those of the modules in reverse order", lambda: by(S[::-1])),
        ("ranks are those of the module before, in order", lambda: by(np.roll(S, 1))),
        ("ranks are those of the module after, in order", lambda: by(np.roll(S, -1))),
        (
            "the least sensitive module has the most ranks",
            lambda: finished(_other_way(np.rint(R_total * normalised(S)), S)),
        ),
        ("ranks are sorted, not in the order of the modules", lambda: by(np.sort(S))),
        ("shares of S times the module's size", lambda: by(S * sizes)),
    ]


def normalised(values: Array) -> Array:
    """Shares of the sum."""
    return values / values.sum()


def _capped(ranks: Array, shapes: list[tuple[int, int]]) -> Array:
    return np.minimum(ranks, [min(s) for s in shapes])


def _by_fractions(exact: Array) -> Array:
    """Cut off, and one more for the largest fractions until the budget is spent (Hamilton's rule)."""
    ranks = np.floor(exact)
    left = round(float(exact.sum() - ranks.sum()))
    ranks[np.argsort(ranks - exact, kind="stable")[:left]] += 1
    return ranks


def _other_way(ranks: Array, S: Array) -> Array:
    """The same ranks, the highest for the lowest S."""
    return np.sort(ranks)[::-1][np.argsort(np.argsort(S, kind="stable"), kind="stable")]


def _last_takes(ranks: Array, R_total: int) -> Array:
    ranks = ranks.copy()
    ranks[-1] += R_total - ranks.sum()
    return ranks


def _redistributed(eq6: Array, share: Array, shapes: list[tuple[int, int]]) -> Array:
    cap = np.array([min(s) for s in shapes])
    return allocation.redistribute_ranks(_capped(eq6, shapes).astype(np.int64), share, cap, int(eq6.sum()))
