# ruff: noqa: E501 (one case a line)
"""Cases of the budget: ranks and scales (Eq. 6, 7)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.kit.cases import FORMS
from tlora_ref.oracle.kit.cases.values import Inputs, Maker

#: There is no share of the budget to give: the only right answer is an error.
REFUSED = frozenset({"allocate/all-zero", "allocate/not-finite"})


def _budget(m: Maker, S: Array, *, r_init: int | None = None, room: int = 64) -> Inputs:
    """Scores with shapes that have `room` for any rank."""
    return {
        "sensitivity": S,
        "shapes": [m.formed(room, room + 16)] * len(S),
        "r_init": r_init or m.size(1, 6),
        "alpha": float(m.pick(1, 4, 16)),
    }


def _scores(m: Maker) -> Array:
    return m.positive(m.size(2, 7))


def _ties(m: Maker) -> Inputs:
    """Every exact share is an odd number of halves, and every step of the arithmetic is exact."""
    L, r_init = m.pick(2, 4), m.pick(1, 2, 4)
    left, odd = 2 * L * r_init, []
    for i in range(L, 1, -1):  # each takes an odd number and leaves at least 1 to each of the others
        odd.append(1 + 2 * m.size(0, (left - i) // 2))
        left -= odd[-1]
    return _budget(m, np.array([*odd, left]) * 2.0 ** -m.size(0, 6), r_init=r_init)


def _dominated(m: Maker) -> Inputs:
    """One module deserves more rank than either of its sides has."""
    L, small = m.size(2, 5), m.size(1, 3)
    S = np.full(L, 0.125)
    S[m.size(0, L - 1)] = m.pick(16.0, 1024.0)
    return _budget(m, S, r_init=m.size(4, 8)) | {"shapes": [m.formed(small, m.size(small + 1, 7))] * L}


def _between(tall: bool) -> Callable[[Maker], Inputs]:
    """One module deserves more rank than its small side has, and no more than its large side."""

    def between(m: Maker) -> Inputs:
        L, small = m.size(2, 4), m.size(1, 4)
        rank = small + m.size(1, 4)
        large = rank + m.size(0, 3)
        r_init = -(-(rank + L - 1) // L)  # the others share what is left, 1 or more each
        S = m.precision.rounded(np.array([rank] + [(L * r_init - rank) / (L - 1)] * (L - 1)) / 8.0)
        own = (large, small) if tall else (small, large)
        return _budget(m, S, r_init=r_init) | {"shapes": [own, *[(64, 64)] * (L - 1)]}

    return between


def _mixed(m: Maker) -> Inputs:
    S = _scores(m)
    forms = [m.form, *[m.pick(*FORMS) for _ in S[1:]]]
    return _budget(m, S) | {"shapes": [m.formed(m.size(1, 9), m.size(12, 20), form) for form in forms]}


def _idle(m: Maker) -> Inputs:
    """Modules whose share rounds to rank 0 keep a scale."""
    S = np.array([m.pick(8.0, 16.0), *([m.pick(0.0, 0.125)] * m.size(1, 4))])
    return _budget(m, S, r_init=m.size(1, 2))


def _bad(m: Maker) -> Inputs:
    S = _scores(m)
    S[m.size(0, len(S) - 1)] = m.pick(np.nan, np.inf)
    return _budget(m, S)


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("allocate/typical", "r_i = round(L r_init S_i / sum S), scale = (alpha / r_init) S_i / mean S", lambda m: _budget(m, _scores(m))),
    ("allocate/one-module", "one module takes the whole budget", lambda m: _budget(m, m.positive(1))),
    ("allocate/tied-scores", "equal scores: plain LoRA's ranks and scales", lambda m: _budget(m, np.full(m.size(2, 6), m.pick(1.0, 0.375)))),
    ("allocate/rounding-ties", "shares of exactly a half go to the even rank", _ties),
    ("allocate/rank-one-budget", "r_init = 1", lambda m: _budget(m, _scores(m), r_init=1)),
    ("allocate/idle-modules", "shares below a half give rank 0", _idle),
    ("allocate/small-sides", "shapes of every kind: what the profile does with ranks above min(d_out, d_in)", _mixed),
    ("allocate/one-dominates", "r_i above d_out and d_in: one module's share is above both its sides", _dominated),
    ("allocate/above-inputs", "d_in < r_i <= d_out: more outputs than inputs, cut to the inputs", _between(tall=True)),
    ("allocate/above-outputs", "d_out < r_i <= d_in: more inputs than outputs, cut to the outputs", _between(tall=False)),
    ("allocate/huge", "huge scores", lambda m: _budget(m, _scores(m) * m.far(1))),
    ("allocate/tiny", "tiny scores", lambda m: _budget(m, _scores(m) * m.far(-1))),
    ("allocate/all-zero", "all scores zero: no share is defined, so it must raise", lambda m: _budget(m, np.zeros(m.size(1, 4)))),
    ("allocate/not-finite", "a score that is NaN or infinite: it must raise", _bad),
]  # fmt: skip
