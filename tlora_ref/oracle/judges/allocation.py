"""The judge of ranks and scales (Eq. 6, 7): exact, but where a score lies within its own error of a rounding tie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from tlora_ref import algorithm
from tlora_ref.backend import Array
from tlora_ref.errors import NumericsError
from tlora_ref.method import allocation
from tlora_ref.method.switches import PROFILES, Switches
from tlora_ref.oracle.judges.bounds import OWN, SAFETY, Slip, as_array, entries, explained, malformed
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict

#: Ties are few: beyond this many at once, only the first are tried both ways.
MOST_TIES = 10


def judge_allocate(
    got: object,
    *,
    sensitivity: Array,
    shapes: Sequence[tuple[int, int]],
    r_init: int,
    alpha: float,
    switches: Switches,
    precision: Precision,
) -> list[Verdict]:
    """Ranks used and scales of all modules."""
    if not isinstance(got, tuple | list) or len(got) != 2:
        return [malformed("allocate", "ranks and scales", f"expected (ranks, scales), got {type(got).__name__}")]
    S = np.asarray(sensitivity, np.float64)
    return [
        judge_ranks(got[0], S, shapes, r_init, switches, precision),
        judge_scales(got[1], S, r_init, alpha, switches, precision, ranks=got[0]),
    ]


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
    return Verdict(
        "allocate",
        "ranks",
        error == 0.0,
        error,
        0.0,
        index,
        float(array[index]),
        float(right[best][index]),
        None if error == 0.0 else explained(array, right[0], np.zeros(1), rank_slips(S, dims, r_init, switches)),
    )


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


def judge_scales(
    got: object,
    S: Array,
    r_init: int,
    alpha: float,
    switches: Switches,
    precision: Precision,
    *,
    ranks: object = None,
) -> Verdict:
    """alpha_i / r_i = (alpha / r_init) S_i / mean S, or the released code's rounded and floored form of it."""
    share = allocation.shares(S)
    dims = [(2**31, 2**31)] * len(S)
    expected = algorithm.allocate(S, dims, r_init, alpha, switches).scale
    relative = SAFETY * (math.sqrt(len(S)) + 4.0) * (precision.accumulation + OWN) + precision.storage
    allowed = relative * np.abs(expected) + precision.tiny
    if switches.round_alpha:  # alpha_total * share near a half may go either way
        wanted = len(S) * alpha * share
        near = np.abs(wanted - np.floor(wanted) - 0.5) <= relative * np.maximum(1.0, wanted)
        allowed = allowed + np.where(near, 1.0 / r_init, 0.0)
    used = as_array(ranks, S.shape)
    slips = scale_slips(S, r_init, alpha, None if isinstance(used, str) else used, switches)
    return entries("allocate", "scales", got, expected, allowed, slips)


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
        ("every module has at least rank 1", lambda: np.maximum(finished(eq6), 1)),
        ("ranks are not cut to min(d_out, d_in)", lambda: eq6),
        ("ranks are cut to d_out alone", lambda: np.minimum(eq6, [s[0] for s in shapes])),
        ("ranks are cut to d_in alone", lambda: np.minimum(eq6, [s[1] for s in shapes])),
        ("ranks are cut to r_init", lambda: np.minimum(finished(eq6), r_init)),
        ("what the cap cuts off is redistributed", lambda: _redistributed(eq6, share, shapes)),
        *_share_slips(S, shapes, r_init, finished),
    ]


def _share_slips(
    S: Array, shapes: list[tuple[int, int]], r_init: int, finished: Callable[[Array], Array]
) -> list[Slip]:
    """What the ranks would be for another share of the budget, or another budget."""
    L, R_total = len(S), len(S) * r_init
    sizes = np.array([a * b for a, b in shapes])

    def by(values: Array) -> Array:
        return finished(np.rint(R_total * _shares(values)))

    return [
        ("every module has rank r_init: the ranks are not adapted", lambda: np.full(L, r_init)),
        ("the budget is r_init, not L r_init", lambda: finished(np.rint(r_init * _shares(S)))),
        ("shares of the squared sensitivities", lambda: by(S * S)),
        ("shares of the root of the sensitivities", lambda: by(np.sqrt(S))),
        ("shares of the logarithms of the sensitivities", lambda: by(np.log1p(S))),
        ("shares by softmax", lambda: by(np.exp(S - S.max()))),
        ("shares of the inverse sensitivities", lambda: by(1.0 / np.maximum(S, 1e-300))),
        ("shares of the largest sensitivity, not of the sum", lambda: finished(np.rint(r_init * S / S.max()))),
        ("ranks are those of the modules in reverse order", lambda: by(S[::-1])),
        ("shares of S times the module's size", lambda: by(S * sizes)),
    ]


def _shares(values: Array) -> Array:
    return values / values.sum()


def _capped(ranks: Array, shapes: list[tuple[int, int]]) -> Array:
    return np.minimum(ranks, [min(s) for s in shapes])


def _last_takes(ranks: Array, R_total: int) -> Array:
    ranks = ranks.copy()
    ranks[-1] += R_total - ranks.sum()
    return ranks


def _redistributed(eq6: Array, share: Array, shapes: list[tuple[int, int]]) -> Array:
    cap = np.array([min(s) for s in shapes])
    return allocation.redistribute_ranks(_capped(eq6, shapes).astype(np.int64), share, cap, int(eq6.sum()))


def scale_slips(S: Array, r_init: int, alpha: float, ranks: Array | None, switches: Switches) -> list[Slip]:
    """What the scales would be after each known slip; `ranks` are the candidate's own."""
    share, L = allocation.shares(S), len(S)
    paper = allocation.scales(share, alpha, r_init)
    r = np.rint(L * r_init * share) if ranks is None else ranks
    held = np.maximum(r, 1.0)

    def released(rounded: bool, floor: bool) -> Array:
        return allocation.released_scales(share, L * alpha, alpha, r_init, rounded=rounded, floor=floor)

    return [
        ("the scale is real-valued and unfloored: matches the `paper` profile", lambda: paper),
        ("alpha is rounded and floored: matches the `released` switches", lambda: released(True, True)),
        ("alpha is rounded: matches the `released` switch `round_alpha`", lambda: released(True, False)),
        ("alpha is floored: matches the `released` switch `floor_alpha`", lambda: released(False, True)),
        ("alpha_i is divided by r_init: the scale is off by r_i / r_init", lambda: paper * r / r_init),
        ("alpha_i itself: the scale is not divided by the rank", lambda: paper * r),
        (
            "plain LoRA's alpha / r_init for every module: the scales are not adapted",
            lambda: np.full(L, alpha / r_init),
        ),
        ("alpha / r_i for every module", lambda: alpha / held),
        ("the adapted alpha over the adapted rank twice", lambda: paper / held),
        ("the budget is alpha, not L alpha", lambda: paper / L),
        ("the scale is not divided by r_init", lambda: paper * r_init),
        ("the share of the squared sensitivities", lambda: _shares(S * S) * L * alpha / r_init),
        ("the share of the root of the sensitivities", lambda: _shares(np.sqrt(S)) * L * alpha / r_init),
        ("S over the largest S, not over the mean", lambda: alpha / r_init * S / S.max()),
        ("alpha over the root of the rank (rsLoRA)", lambda: paper * np.sqrt(held)),
        ("insensitive modules get the larger scale: shares are inverted", lambda: paper[::-1]),
        ("modules of rank 0 have no scale", lambda: np.where(r > 0, paper, 0.0)),
    ]
