"""From samples to an adapter, and a model with its adapter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.adapter import INITS, Adapter, Plan, allocate, initialize
from tlora_ref.calibration import CalibrationStats, calibrate, processes
from tlora_ref.checkpoint import load_model, load_peft, read_config, working_dtype
from tlora_ref.data import choose_samples
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.method.switches import PROFILES, Switches
from tlora_ref.transformer import Model

Sample = Mapping[str, Any]


#: What others call them.
INITS_ELSEWHERE = {
    **dict.fromkeys(("tlora", "default", "eq4", "wcsvd"), "wc-svd"),
    **dict.fromkeys(("svd", "pissa", "wsvd"), "w-svd"),
    **dict.fromkeys(("lora", "kaiming", "gaussian", "true", "uniform"), "random"),
}


@dataclass(frozen=True)
class AdapterSettings:
    """How an adapter is made. ConfigError for a bad setting, before any work.

    Attributes
    ----------
    rank, alpha : r_init and alpha of plain LoRA, whose budget is spent; alpha None for the rank
    targets : module paths, ends of paths or regular expressions; None for the family's own choice
    switches : the profile, paper by default
    init : how A is made: "wc-svd", "w-svd", "random", "theory"
    samples, seed : how many samples calibrate; the seed of their choice and of a random A
    adapt_rank, adapt_scale, uniform_scale : the ablations of Table 4, as `allocate` has them
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    switches: Switches = field(default_factory=lambda: PROFILES["paper"])
    init: str = "wc-svd"
    samples: int = 32
    seed: int = 42
    adapt_rank: bool = True
    adapt_scale: bool = True
    uniform_scale: str = "alpha/r_init"

    def __post_init__(self) -> None:
        if self.init not in INITS:
            hint = did_you_mean(self.init, INITS, INITS_ELSEWHERE)
            raise ConfigError(f"init is {self.init!r}, expected one of {', '.join(INITS)}{hint}")
        size = max(1, self.rank)
        self.allocate({"one": 1.0}, {"one": (size, size)})  # the settings, tried on a model of one module

    def shapes(self, model: Model) -> dict[str, tuple[int, int]]:
        """{target module: (d_out, d_in)} in a model."""
        return model.shapes(list(self.targets) if self.targets else None)

    def allocate(self, sensitivity: Mapping[str, float], shapes: Mapping[str, tuple[int, int]]) -> Plan:
        """Alg. 1, lines 12 to 15, under these settings."""
        return allocate(
            sensitivity,
            shapes,
            self.rank,
            self.rank if self.alpha is None else self.alpha,
            self.switches,
            adapt_rank=self.adapt_rank,
            adapt_scale=self.adapt_scale,
            uniform_scale=self.uniform_scale,
        )


def calibrate_for(
    settings: AdapterSettings,
    model: Model,
    samples: Sequence[Sample],
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    kept: str | Path | None = None,
    resume: bool = False,
) -> tuple[CalibrationStats, list[int]]:
    """Alg. 1, lines 4 to 11, on `settings.samples` of the samples: the statistics, and which samples were drawn.

    workers : processes that calibrate side by side, to the same bits
    kept, resume : a file for the sums so far, and whether to go on from it (see `calibrate`)
    """
    drawn, indices = choose_samples(samples, settings.samples, settings.seed)
    targets = list(settings.targets) if settings.targets else None
    with processes(workers) as executor:
        options: dict[str, Any] = {"executor": executor, "progress": progress, "kept": kept, "resume": resume}
        return calibrate(model, drawn, targets, profile=settings.switches, **options), indices


def load_statistics(file: Path, shapes: Mapping[str, tuple[int, int]]) -> CalibrationStats:
    """Statistics that were kept in a file; ConfigError where they are not of these modules."""
    stats = CalibrationStats.load(file)
    for module, shape in shapes.items():
        found = stats.shapes.get(module)
        if found != shape:
            said = "it holds no statistics" if found is None else f"its statistics are {found}, the model {shape}"
            raise ConfigError(
                f"{file}: {said} of {module}: was it made with another model, or other targets? Calibrate again, or "
                "narrow --target"
            )
    return stats


def make_adapter(
    settings: AdapterSettings,
    model: Model,
    statistics: CalibrationStats,
    *,
    on_plan: Callable[[Plan], None] | None = None,
) -> Adapter:
    """Alg. 1, lines 12 to 17: ranks and scales, A, and B = 0; `on_plan` is told the ranks before A is made."""
    shapes = settings.shapes(model)
    plan = settings.allocate({module: statistics.sensitivity[module] for module in shapes}, shapes)
    if on_plan is not None:
        on_plan(plan)
    return initialize(model, statistics, plan, init=settings.init, seed=settings.seed)


def attach(model: Model, adapter: Adapter) -> None:
    """`adapter` on `model`, with a warning where it was made for another."""
    model.attach(adapter)
    if adapter.model not in (None, model.digest()):
        warnings.warn(
            "this adapter was made for other weights: its A was chosen for them, and its B trained on them",
            stacklevel=2,
        )


def load_adapted(
    folder: str | Path,
    adapter: str | Path | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    *,
    hold: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 42,
) -> tuple[Model, Adapter | None]:
    """A model, and the adapter that is attached to it if one is given.

    dtype, device, hold : see `load_model`
    labels, seed : a bare encoder gets a fresh head for these classes (see `load_model`); where the adapter brings a
        head, its own

    Raises
    ------
    CheckpointError, ConfigError, ShapeError
        for a damaged folder, or an adapter that does not fit.
    """
    if adapter is None:
        return load_model(folder, dtype, device, hold=hold, labels=labels, seed=seed), None
    low_rank = load_peft(adapter, working_dtype(dtype, hold, device), device)
    if labels is None and is_bare_encoder(folder):
        labels = labels_of(low_rank)
        seed = seed if labels is None else low_rank.seed
    model = load_model(folder, dtype, device, hold=hold, labels=labels, seed=seed)
    headless = sorted(model.fresh - set(low_rank.saved))
    if headless:
        raise ConfigError(
            f"{folder} has no classification head, and neither has {adapter} ({', '.join(headless)}): train one with "
            "`tlora-ref train`"
        )
    attach(model, low_rank)
    return model, low_rank


def is_bare_encoder(folder: str | Path) -> bool:
    """Whether a checkpoint is an encoder without a classification head."""
    _, model_class = read_config(folder)
    return model_class.task_type == Model.task_type


def labels_of(adapter: Adapter) -> tuple[str, ...] | None:
    """The classes of an adapter's head: their names, or as transformers calls them where it does not say; None where it
    has no head."""
    if adapter.task_type != "SEQ_CLS":
        return None
    if adapter.labels:
        return adapter.labels
    for name in ("classifier.out_proj.weight", "classifier.weight"):
        if name in adapter.saved and adapter.saved[name].ndim == 2:
            return tuple(f"LABEL_{i}" for i in range(len(adapter.saved[name])))
    return None
