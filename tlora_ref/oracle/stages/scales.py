"""Stage "scales" (Eq. 7): scale_i = alpha_i / r_i = (alpha / r_init) S_i / mean S of every module.

Judged by the candidate's own S where it recorded them all, else by the golden S; against the golden scales; and
alpha_i against the candidate's own r_i scale_i.
"""

from __future__ import annotations

import math

import numpy as np

from tlora_ref import algorithm
from tlora_ref.backend import Array
from tlora_ref.method import allocation
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, OWN_INPUTS, Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, as_array, entries
from tlora_ref.oracle.stages.ranks import normalised, rounded_otherwise, share_errors
from tlora_ref.oracle.stages.sides import Sides, named
from tlora_ref.oracle.verdict import Verdict


def findings(sides: Sides) -> list[Finding]:
    """Scales from the candidate's own S (Eq. 7), alpha_i = r_i scale_i, and against the golden scales."""
    modules = list(sides.golden.shapes)
    have = [m for m in modules if sides.candidate.has(f"scale/{m}")]
    if not have or not sides.golden.modules("sensitivity"):
        return [sides.skipped("scales", None, "not recorded")]
    S, source = sides.scores()
    ranks = [float(sides.candidate.get(f"rank/{m}")) if sides.candidate.has(f"rank/{m}") else np.nan for m in modules]
    scales = np.array([float(sides.candidate.get(f"scale/{m}")) if m in have else np.nan for m in modules])
    known = ~np.isnan(scales)  # a bare adapter says nothing of modules without one
    m = sides.golden.manifest
    golden = np.array([float(sides.golden.get(f"scale/{name}")) for name in modules])
    scales = np.where(known, scales, golden)
    found = []
    if source == OWN_INPUTS:
        verdict = judge_scales(scales, S, m.r_init, m.alpha, sides.switches, sides.precision, ranks=ranks)
        found.append(sides.finding("scales", OWN_INPUTS, named(modules, verdict), verdict))
    slips = scale_slips(S, m.r_init, m.alpha, _usable(ranks, S), sides.switches) if source == GOLDEN else []
    verdict = entries("scales", "scales", scales, golden, _allowed(sides, golden), slips)
    return [*found, *alphas(sides), sides.finding("scales", GOLDEN, named(modules, verdict), verdict)]


def _allowed(sides: Sides, golden: Array) -> Array:
    """How far each scale may be from golden's: of the error of S_i, and of the mean's, and its own rounding."""
    m = sides.golden.manifest
    S = np.array([float(sides.golden.get(f"sensitivity/{name}")) for name in sides.golden.shapes])
    error, rounding = len(S) * m.alpha * share_errors(sides, S), 16.0 * sides.rounding * np.abs(golden)
    if sides.switches.round_alpha:
        error = rounded_otherwise(len(S) * m.alpha * allocation.shares(S), error)
    return np.asarray(error / m.r_init + rounding + sides.precision.tiny)


def alphas(sides: Sides) -> list[Finding]:
    """alpha_i = r_i scale_i, by the candidate's own rank and scale."""
    found = []
    for name in sides.golden.shapes:
        quantities = [f"{kind}/{name}" for kind in ("alpha", "rank", "scale")]
        if all(map(sides.candidate.has, quantities)):
            alpha, rank, scale = map(sides.candidate.get, quantities)
            allowed = 8.0 * sides.rounding * np.abs(rank * scale)
            by_r_init = scale * sides.golden.manifest.r_init
            slips: list[Slip] = [("alpha is r_init * scale, not r_i * scale", lambda a=by_r_init: a)]  # type: ignore[misc]
            verdict = entries("scales", "alpha = r scale", alpha, rank * scale, allowed, slips)
            found.append(sides.own("scales", name, verdict))
    return found


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
    slips = scale_slips(S, r_init, alpha, _usable(ranks, S), switches)
    return entries("allocate", "scales", got, expected, allowed, slips)


def _usable(ranks: object, S: Array) -> Array | None:
    used = as_array(ranks, S.shape)
    return None if isinstance(used, str) else used


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
        ("the inverse of the share", lambda: (alpha / r_init) ** 2 / np.maximum(paper, 1e-300)),
        ("the scale is divided by the root of the rank", lambda: paper / np.sqrt(held)),
        ("alpha over the root of the rank for every module", lambda: alpha / np.sqrt(held)),
        ("the scale is squared", lambda: paper * paper),
        ("the scale is cut at 2 alpha / r_init", lambda: np.minimum(paper, 2 * alpha / r_init)),
        ("alpha / r_init times r_i / r_init: the scale follows the rank used", lambda: alpha / r_init * r / r_init),
        ("the scale follows the rank used, not S", lambda: alpha / r_init * r / (r.mean() or 1.0)),
        ("alpha over the root of the rank (rsLoRA)", lambda: paper * np.sqrt(held)),
        ("insensitive modules get the larger scale: shares are inverted", lambda: paper[::-1]),
        *_of_other_shares(S, paper, r, alpha / r_init),
        ("modules of rank 0 have no scale", lambda: np.where(r > 0, paper, 0.0)),
    ]


def _of_other_shares(S: Array, paper: Array, r: Array, mean: float) -> list[Slip]:
    """What the scales would be of other shares of S, `mean` being the scale of a module of average S; or rounded."""
    return [
        ("the share of the squared sensitivities", lambda: normalised(S * S) * len(S) * mean),
        ("the root of S over its mean", lambda: mean * np.sqrt(S / (S.mean() or 1.0))),
        ("the share of the root of the sensitivities", lambda: normalised(np.sqrt(S)) * len(S) * mean),
        ("S over the largest S, not over the mean", lambda: mean * S / S.max()),
        ("S over the median S, not over the mean", lambda: mean * S / (np.median(S) or 1.0)),
        ("S over the median (the lower of two) S", lambda: mean * S / (np.sort(S)[(len(S) - 1) // 2] or 1.0)),
        ("S over the mean of the modules that have a rank", lambda: mean * S * (r > 0).sum() / (S[r > 0].sum() or 1.0)),
        ("the scale is rounded to tenths", lambda: np.rint(paper * 10) / 10),
        ("the scale is rounded to whole numbers", lambda: np.rint(paper)),
    ]
