"""From sensitivities by module to a `Plan`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from tlora_ref import algorithm
from tlora_ref.adapter.plan import Plan
from tlora_ref.algorithm import Allocation
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError, NumericsError, ShapeError
from tlora_ref.method.switches import Switches, resolve

UNIFORM_SCALES = ("alpha/r_init", "alpha/r_i")


def allocate(
    sensitivity: Mapping[str, float],
    shapes: Mapping[str, tuple[int, int]],
    r_init: int = 8,
    alpha: float = 8.0,
    profile: str | Switches = "paper",
    *,
    adapt_rank: bool = True,
    adapt_scale: bool = True,
    uniform_scale: str = "alpha/r_init",
    **switches: Any,
) -> Plan:
    """Alg. 1, lines 12 to 15: ranks by Eq. 6 and scales by Eq. 7 under the budget of plain LoRA at (r_init, alpha).

    Parameters
    ----------
    sensitivity : {module: S_i}; shapes : {module: (d_out, d_in)}, of the same modules; their order is the plan's
    profile, switches : "paper", "released" or Switches, and single switches changed by keyword
    adapt_rank, adapt_scale : False for the ablations of Table 4 (uniform rank r_init; uniform scale)
    uniform_scale : what adapt_scale=False means with adaptive ranks: "alpha/r_init" or "alpha/r_i" (the paper does
        not say)

    Raises
    ------
    ConfigError, NumericsError
        for modules that disagree, a bad budget or switch, all S zero, or an S that is not finite.
    """
    _check_request(sensitivity, shapes, uniform_scale)
    chosen = resolve(profile, **switches)
    modules = list(shapes)
    S = np.array([sensitivity[m] for m in modules], dtype=np.float64)
    dims = [(int(shapes[m][0]), int(shapes[m][1])) for m in modules]
    ones = np.ones(len(S))
    by_S = algorithm.allocate(S if adapt_rank or adapt_scale else ones, dims, r_init, alpha, chosen)
    ranks = by_S if adapt_rank else algorithm.allocate(ones, dims, r_init, alpha, chosen)
    scale = by_S.scale if adapt_scale else _uniform_scale(ranks.rank, r_init, alpha, uniform_scale)
    named = partial(_named, modules)
    return Plan(
        rank=named(ranks.rank),
        rank_eq6=named(ranks.rank_eq6),
        alpha=named(ranks.rank * scale),
        scales=named(scale),
        sensitivity=named(S),
        share=named(by_S.share),
        shapes=dict(zip(modules, dims, strict=True)),
        r_init=r_init,
        alpha_init=float(alpha),
        switches=chosen,
        adapt_rank=adapt_rank,
        adapt_scale=adapt_scale,
        uniform_scale=uniform_scale,
        notes=_notes(modules, dims, ranks, by_S if adapt_scale else None, alpha / r_init),
    )


def _named(modules: list[str], values: Array) -> dict[str, Any]:
    """A vector over the modules as Python numbers by name."""
    return dict(zip(modules, values.tolist(), strict=True))


def _uniform_scale(rank: Array, r_init: int, alpha: float, rule: str) -> Array:
    """The scale of every module where the sensitivities do not decide it, (L,)."""
    if rule == "alpha/r_init":
        return np.full(len(rank), alpha / r_init)
    return alpha / np.maximum(rank, 1)  # "alpha/r_i"; without a rank there is nothing to scale


def _check_request(sensitivity: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], uniform_scale: str) -> None:
    """Refuses an unknown rule, modules that disagree and numbers that have no share, by the module's name."""
    if uniform_scale not in UNIFORM_SCALES:
        raise ConfigError(f"uniform_scale is {uniform_scale!r}, expected {' or '.join(UNIFORM_SCALES)}")
    if set(sensitivity) != set(shapes):
        odd = sorted(set(sensitivity) ^ set(shapes))
        raise ConfigError(f"sensitivities and shapes are of different modules: {', '.join(odd[:5])}")
    for module, S in sensitivity.items():
        if not 0 <= S < math.inf:
            raise NumericsError(f"the sensitivity of {module} is {S}: expected a finite number, not negative")
        if len(shapes[module]) != 2 or min(shapes[module]) < 1:
            raise ShapeError(f"the shape of {module} is {tuple(shapes[module])}: expected (d_out, d_in), both positive")


def _notes(
    modules: list[str], dims: list[tuple[int, int]], ranks: Allocation, scales: Allocation | None, least: float
) -> dict[str, str]:
    """What the rules beyond Eq. 6 and Eq. 7 changed, module by module; `least` is plain LoRA's scale."""
    notes = {}
    for i, module in enumerate(modules):
        said = []
        eq6, settled, rank = (int(r[i]) for r in (ranks.rank_eq6, ranks.rank_settled, ranks.rank))
        if settled != eq6:
            said.append(f"remainder: {eq6} -> {settled}")
        if rank < settled:
            said.append(f"rank {settled} cut to {rank} ({dims[i][0]} x {dims[i][1]})")
        elif rank > settled:
            said.append(f"rank {settled} raised to {rank}")
        if rank == 0:
            said.append("rank 0: no adapter")
        if scales is not None and scales.scale[i] != scales.scale_paper[i]:
            rule = "floor" if scales.scale[i] == least and scales.scale_paper[i] < least else "rounding"
            said.append(f"alpha {rule}: scale {scales.scale_paper[i]:.4g} -> {scales.scale[i]:.4g}")
        if said:
            notes[module] = "; ".join(said)
    return notes
