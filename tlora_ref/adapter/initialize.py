"""From a model, its statistics and a `Plan` to an `Adapter`."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from tlora_ref.adapter.leading import leading, leading_with_spectrum
from tlora_ref.adapter.matrices import Adapter
from tlora_ref.adapter.plan import Plan
from tlora_ref.backend import Array, device_of
from tlora_ref.errors import ConfigError, NumericsError, ShapeError
from tlora_ref.method import initialization
from tlora_ref.method.switches import Switches

#: How A can be made: Eq. 4; W_0's own singular vectors; plain LoRA's random A; the theoretical optimum of App. B.1.
INITS = ("wc-svd", "w-svd", "random", "theory")
#: Entries of a matrix up to which several are decomposed side by side; LAPACK keeps all cores busy with larger ones.
SMALL = 2**22


class _Model(Protocol):
    @property
    def task_type(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def weight(self, module: str) -> Array: ...
    def whole_head(self) -> dict[str, Array]: ...
    def digest(self) -> str: ...


class _Statistics(Protocol):
    @property
    def covariance(self) -> Mapping[str, Array]: ...

    centre: bool
    model: str | None


def initialize(
    model: _Model,
    stats: _Statistics | None,
    plan: Plan,
    *,
    init: str = "wc-svd",
    seed: int = 42,
    modules: Collection[str] | None = None,
    spectrum: bool = False,
) -> Adapter:
    """Alg. 1, lines 16 and 17: A of every module with a rank, and B = 0.

    Parameters
    ----------
    model : gives W by `weight(module)`
    stats : calibration statistics; may be None for "w-svd" and "random", which need no C
    init : "wc-svd" (Eq. 4), "w-svd" or "random" (Table 12), "theory" (App. B.1)
    seed : of the random A; every module draws from its own stream, so a module's A does not depend on the others
    modules : only these of the plan's, where `stats` hold no more (a large model calibrated layer by layer)
    spectrum : have `Adapter.sigma` hold every singular value, as a trace does, and not only those of A's rows

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
    own["labels"] = model.labels
    adapter = Adapter({}, {}, {}, plan=plan, init=init, seed=seed, frozen_A=plan.switches.freeze_A, **own)
    for module, shape in plan.shapes.items():
        if model.weight(module).shape != shape:
            raise ShapeError(f"{module} is {model.weight(module).shape}, but the plan was made for {shape}")
    covariance = None if stats is None else stats.covariance
    chosen = [module for module, r in plan.rank.items() if r > 0 and (modules is None or module in modules)]
    decompose = leading_with_spectrum if spectrum else leading
    tasks = [partial(_make_A, m, model, covariance, plan.rank[m], plan.switches, init, seed, decompose) for m in chosen]
    small = bool(chosen) and all(d_out * d_in <= SMALL for d_out, d_in in (plan.shapes[module] for module in chosen))
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
    module: str,
    model: _Model,
    covariance: Mapping[str, Array] | None,
    r: int,
    switches: Switches,
    init: str,
    seed: int,
    decompose: initialization.Decompose,
) -> tuple[Array, Array | None]:
    """A of one module (r, d_in) float64, and the singular values it was chosen by."""
    W = model.weight(module)  # when its turn comes: a held one is widened here
    try:
        if init == "random":
            rng = np.random.default_rng([seed, zlib.crc32(module.encode())])
            return initialization.random_uniform(W.shape[1], r, rng, like=W), None
        if init == "w-svd":
            return initialization.w_svd(W, r, switches.svd_dtype, decompose)
        if covariance is None or module not in covariance:
            raise ConfigError(f"the statistics have no covariance of {module}: calibrate with these targets")
        if init == "theory":
            return initialization.theoretical(W, covariance[module], r), None
        return initialization.wc_svd(W, covariance[module], r, switches.svd_dtype, decompose)
    except (NumericsError, ShapeError) as error:
        raise type(error)(f"{module}: {error}") from error
