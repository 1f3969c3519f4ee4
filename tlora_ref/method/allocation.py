"""From sensitivities to ranks and scales. Vectors over the L modules, in model order; host float64."""

from __future__ import annotations

import math

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError, NumericsError, ShapeError


def budget(modules: int, r_init: int, alpha: float) -> tuple[int, float]:
    """Alg. 1, line 12: R_total = L r_init, alpha_total = L alpha."""
    if modules < 1:
        raise ConfigError("there is no target module to share the budget among")
    whole = isinstance(r_init, (int, np.integer)) and not isinstance(r_init, bool)
    if not whole or r_init < 1 or not 0 < alpha < math.inf:
        raise ConfigError(
            f"r_init is {r_init} and alpha {alpha}: expected a positive integer and a positive, finite number"
        )
    return modules * int(r_init), modules * alpha


def _checked(S: Array) -> Array:
    """S as float64, times the power of two that brings its largest to [1/2, 1): exact, and no sum overflows."""
    S = np.asarray(S, dtype=np.float64)
    if S.ndim != 1:
        raise ShapeError(f"shares: S has shape {S.shape}, expected (modules,)")
    if not np.isfinite(S).all() or (S < 0).any():
        bad = int(np.argmax(~np.isfinite(S) | (S < 0)))
        raise NumericsError(f"the sensitivity of module {bad} is {S[bad]}: expected a finite number, not negative")
    largest = S.max(initial=0.0)
    if largest == 0.0:
        raise NumericsError(
            "all sensitivities are zero, so no share of the budget is defined: the weights or their gradients vanish "
            "on these calibration samples"
        )
    return np.asarray(np.ldexp(S, -np.frexp(largest)[1]))


def shares(S: Array) -> Array:
    """The S_i / sum_j S_j of Eq. 6 and Eq. 7, (L,).

    Raises
    ------
    NumericsError
        if a sensitivity is not finite or negative, or all are zero: then no share is defined.
    """
    S = _checked(S)
    return S / math.fsum(S)  # fsum: the same sum in whatever order the modules come


def ranks(S: Array, R_total: int) -> Array:
    """Eq. 6 (Alg. 1, line 14): r_i = round(R_total * S_i / sum_j S_j), ties to even; (L,) integers.

    As it stands: no floor, no cap, and the sum may miss R_total by up to L / 2. Multiplied before it is divided: a
    rounded share times R_total would miss one exact tie in five. Errors as for `shares`.
    """
    S = _checked(S)
    return np.rint(R_total * S / math.fsum(S)).astype(np.int64)


def scales(share: Array, alpha: float, r_init: int) -> Array:
    """alpha_i / r_i = (alpha / r_init) S_i / mean_j S_j, (L,): what Eq. 6 and Eq. 7 give together.

    It does not depend on r_i, so it stands for modules of rank 0 too; the scales sum to L alpha / r_init.
    """
    return share * len(share) * (alpha / r_init)


def alphas(r: Array, share: Array, alpha_total: float, r_init: int) -> Array:
    """Eq. 7 (Alg. 1, line 15): alpha_i = r_i * (alpha_total / r_init) * S_i / sum_j S_j, (L,)."""
    return r * (alpha_total / r_init) * share


def settle_remainder(r: Array, R_total: int) -> Array:
    """The released code's treatment of what rounding left over (the paper has none).

    The module of the largest rank takes +1 or -1 until the ranks sum to R_total; it is looked up anew each time, and
    the first one is taken on ties.
    """
    r = r.copy()
    while (rest := R_total - int(r.sum())) != 0:
        r[int(np.argmax(r))] += 1 if rest > 0 else -1
    return r


def released_scales(
    share: Array, alpha_total: float, alpha: float, r_init: int, *, rounded: bool, floor: bool
) -> Array:
    """The released code's scale: alpha_total * share, rounded and never below alpha, over r_init; (L,).

    Each of the two steps is a switch; with neither this is `scales`.
    """
    a = alpha_total * share
    if rounded:
        a = np.rint(a)
    if floor:
        a = np.maximum(a, alpha)
    return a / r_init


def redistribute_ranks(r: Array, share: Array, cap: Array, total: int) -> Array:
    """Opt-in: hand out ranks one at a time until they sum to `total` or every module is at its cap.

    Each goes to the module, below its cap, whose rank falls furthest short of its share (the first on ties).
    """
    r = r.copy()
    while int(r.sum()) < total and (r < cap).any():
        want = np.where(r < cap, share * total - r, -np.inf)
        r[int(np.argmax(want))] += 1
    return r
