"""What Algorithm 1 produces: a `Plan` of ranks and scales, and an `Adapter` of matrices."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from tlora_ref import algorithm
from tlora_ref.algorithm import Allocation
from tlora_ref.backend import Array, device_of
from tlora_ref.errors import ConfigError, NumericsError, ShapeError
from tlora_ref.method import initialization
from tlora_ref.method.adapter import merged_weight
from tlora_ref.method.switches import Switches, resolve

#: How A can be made: Eq. 4; W_0's own singular vectors; plain LoRA's random A; the theoretical optimum of App. B.1.
INITS = ("wc-svd", "w-svd", "random", "theory")
#: Entries of a matrix up to which several are decomposed side by side; LAPACK keeps all cores busy with larger ones.
SMALL = 2**22
UNIFORM_SCALES = ("alpha/r_init", "alpha/r_i")


@dataclass(frozen=True)
class Plan:
    """Which rank and which scale every module gets, and why.

    Attributes
    ----------
    rank : r_i used; rank_eq6 : r_i as Eq. 6 gives it, before any rule
    alpha : rank * scale, so that alpha / rank is the scale (what PEFT's `alpha_pattern` wants)
    sensitivity, share : S_i and S_i / sum S
    notes : {module: what a rule changed}, for the modules where one acted
    """

    rank: dict[str, int]
    rank_eq6: dict[str, int]
    alpha: dict[str, float]
    scales: dict[str, float]
    sensitivity: dict[str, float]
    share: dict[str, float]
    shapes: dict[str, tuple[int, int]]
    r_init: int
    alpha_init: float
    switches: Switches
    adapt_rank: bool = True
    adapt_scale: bool = True
    uniform_scale: str = "alpha/r_init"
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def profile(self) -> str:
        return self.switches.name

    def scale(self, module: str) -> float:
        """alpha_i / r_i, defined at rank 0 too; ConfigError for a module that the plan does not hold."""
        if module not in self.scales:
            raise ConfigError(f"the plan holds no module {module}: it was made for {', '.join(self.scales)}")
        return self.scales[module]

    @property
    def trainable_parameters(self) -> int:
        """Entries of all B, and of all A where the profile does not freeze them."""
        d_in = 0 if self.switches.freeze_A else 1
        return sum((self.shapes[m][0] + d_in * self.shapes[m][1]) * r for m, r in self.rank.items())

    @property
    def lora_parameters(self) -> int:
        """Entries of A and B of plain LoRA at r_init."""
        return sum((d_out + d_in) * self.r_init for d_out, d_in in self.shapes.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        shapes = {m: list(shape) for m, shape in self.shapes.items()}
        return {**values, "shapes": shapes, "switches": self.switches.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Plan:
        """What `to_dict` gave; ConfigError if a field is missing or unknown."""
        fields = set(Plan.__dataclass_fields__)
        if set(values) != fields:
            raise ConfigError(f"a stored plan has the wrong fields: {', '.join(sorted(set(values) ^ fields))}")
        shapes = {m: (int(s[0]), int(s[1])) for m, s in values["shapes"].items()}
        return Plan(**{**values, "shapes": shapes, "switches": Switches.from_dict(values["switches"])})


@dataclass
class Adapter:
    """The low-rank matrices of a model. Modules of rank 0 are absent.

    Attributes
    ----------
    A : {module: (r_i, d_in)}, frozen unless a run trains it; B : {module: (d_out, r_i)}
    scale : {module: alpha_i / r_i}
    plan : where ranks and scales come from; None for an adapter read from elsewhere
    saved : whole tensors used instead of the model's (PEFT's `modules_to_save`): a classifier's head, and what was
        trained beside A and B
    untrained : names in `saved` that are as the model has them
    sigma : {module: singular values of the matrix that A was taken from}; empty if A was not
    task_type : PEFT's name for what the model does
    model : `Model.digest` of the model it was made for; None if that is not known
    """

    A: dict[str, Array]
    B: dict[str, Array]
    scale: dict[str, float]
    plan: Plan | None = None
    init: str = "wc-svd"
    seed: int = 42
    frozen_A: bool = True
    saved: dict[str, Array] = field(default_factory=dict)
    untrained: set[str] = field(default_factory=set)
    sigma: dict[str, Array] = field(default_factory=dict)
    task_type: str | None = "CAUSAL_LM"
    model: str | None = None

    @property
    def modules(self) -> list[str]:
        """Paths of the adapted modules, in model order."""
        return list(self.A)

    def merged_weight(self, name: str, W: Array) -> Array:
        """W' = W + s B A (Eq. 1) of one module."""
        return merged_weight(W, self.A[name], self.B[name], self.scale[name])

    def trainable_parameters(self) -> int:
        """Entries of B, and of A unless it is frozen, and of whole tensors trained beside them."""
        whole = [tensor for name, tensor in self.saved.items() if name not in self.untrained]
        matrices = [*self.B.values(), *whole, *([] if self.frozen_A else self.A.values())]
        return sum(int(matrix.size) for matrix in matrices)

    def copy(self) -> Adapter:
        """An adapter with arrays of its own."""
        arrays: dict[str, Any] = {
            name: {m: x.copy() for m, x in getattr(self, name).items()} for name in ("A", "B", "saved", "sigma")
        }
        return replace(self, scale=dict(self.scale), untrained=set(self.untrained), **arrays)


class _Model(Protocol):
    @property
    def task_type(self) -> str: ...
    def weight(self, module: str) -> Array: ...
    def whole_head(self) -> dict[str, Array]: ...
    def digest(self) -> str: ...


class _Statistics(Protocol):
    @property
    def covariance(self) -> Mapping[str, Array]: ...

    centre: bool
    model: str | None


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


def initialize(
    model: _Model,
    stats: _Statistics | None,
    plan: Plan,
    *,
    init: str = "wc-svd",
    seed: int = 42,
    modules: Collection[str] | None = None,
) -> Adapter:
    """Alg. 1, lines 16 and 17: A of every module with a rank, and B = 0.

    Parameters
    ----------
    model : gives W by `weight(module)`
    stats : calibration statistics; may be None for "w-svd" and "random", which need no C
    init : "wc-svd" (Eq. 4), "w-svd" or "random" (Table 12), "theory" (App. B.1)
    seed : of the random A; every module draws from its own stream, so a module's A does not depend on the others
    modules : only these of the plan's, where `stats` hold no more (a large model calibrated layer by layer)

    Returns
    -------
    Adapter in the model's dtype; the SVD is in float64 unless the switch `svd_dtype` says otherwise

    Raises
    ------
    ConfigError
        for an unknown `init`, missing statistics, or statistics of another profile than the plan's or another model.
    """
    if init not in INITS:
        raise ConfigError(f"init is {init!r}, expected one of {', '.join(INITS)}")
    if init in ("wc-svd", "theory"):
        _check_statistics(stats, plan, model, init)
    head = {name: x for name, x in model.whole_head().items() if name.rpartition(".")[0] not in plan.shapes}
    own: dict[str, Any] = {"saved": head, "untrained": set(head), "task_type": model.task_type, "model": model.digest()}
    adapter = Adapter({}, {}, {}, plan=plan, init=init, seed=seed, frozen_A=plan.switches.freeze_A, **own)
    for module, shape in plan.shapes.items():
        if model.weight(module).shape != shape:
            raise ShapeError(f"{module} is {model.weight(module).shape}, but the plan was made for {shape}")
    covariance = None if stats is None else stats.covariance
    chosen = [module for module, r in plan.rank.items() if r > 0 and (modules is None or module in modules)]
    tasks = [partial(_make_A, m, model.weight(m), covariance, plan.rank[m], plan.switches, init, seed) for m in chosen]
    small = bool(chosen) and all(model.weight(module).size <= SMALL for module in chosen)
    results = device_of(model.weight(chosen[0])).side_by_side(tasks) if small else [task() for task in tasks]
    for module, (A, sigma) in zip(chosen, results, strict=True):
        W = model.weight(module)
        adapter.A[module] = A.astype(W.dtype)
        adapter.B[module] = initialization.zero_B(W.shape[0], plan.rank[module], like=W)
        adapter.scale[module] = plan.scale(module)
        if sigma is not None:
            adapter.sigma[module] = sigma
    return adapter


def _check_statistics(stats: _Statistics | None, plan: Plan, model: _Model, init: str) -> None:
    if stats is None:
        raise ConfigError(f'init "{init}" needs calibration statistics: pass what tlora_ref.calibrate returned')
    if stats.centre != plan.switches.centre:
        raise ConfigError(
            f"the statistics were made with centre={stats.centre}, the plan ({plan.profile}) says "
            f"centre={plan.switches.centre}: use one profile for calibration, allocation and initialisation"
        )
    if stats.model not in (None, model.digest()):
        raise ConfigError("the statistics are those of another model's weights: calibrate with this one")


def _make_A(
    module: str, W: Array, covariance: Mapping[str, Array] | None, r: int, switches: Switches, init: str, seed: int
) -> tuple[Array, Array | None]:
    """A of one module (r, d_in) float64, and the singular values it was chosen by."""
    try:
        if init == "random":
            rng = np.random.default_rng([seed, zlib.crc32(module.encode())])
            return initialization.random_uniform(W.shape[1], r, rng, like=W), None
        if init == "w-svd":
            return initialization.w_svd(W, r, switches.svd_dtype)
        if covariance is None or module not in covariance:
            raise ConfigError(f"the statistics have no covariance of {module}: calibrate with these targets")
        if init == "theory":
            return initialization.theoretical(W, covariance[module], r), None
        A, _, sigma = algorithm.initialize(W, covariance[module], r, switches)
        return A, sigma
    except (NumericsError, ShapeError) as error:
        raise type(error)(f"{module}: {error}") from error
