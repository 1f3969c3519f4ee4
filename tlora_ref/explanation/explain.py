"""From a model and samples to its explanation: Algorithm 1 is run once, and its numbers are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter, Plan
from tlora_ref.backend import Array, device_of, to_numpy
from tlora_ref.calibration import CalibrationStats
from tlora_ref.errors import ConfigError
from tlora_ref.explanation.choices import Choices, Root, Spectra, compare
from tlora_ref.explanation.found import Explanation
from tlora_ref.explanation.page import html_page
from tlora_ref.explanation.update import Update, measure_update
from tlora_ref.pages import check_page, write_page
from tlora_ref.pipeline import AdapterSettings, calibrate_for, make_adapter
from tlora_ref.training import TrainSettings, train
from tlora_ref.transformer import Model

#: What is told while it works: (what, done, total).
Progress = Callable[[str, int, int], None]
#: A short run: enough to see the loss fall and the update lie where it must.
STEPS = TrainSettings(steps=4, batch_size=4, lr=1e-3)


def explain(
    model: Model,
    samples: Sequence[Mapping[str, Any]],
    out: str | Path | None = None,
    *,
    settings: AdapterSettings | None = None,
    training: TrainSettings = STEPS,
    title: str = "",
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Explanation:
    """Algorithm 1 on a model, with every number on the way; written to `out` as one page if that is given.

    The model is trained for the steps of `training`, and left without the adapter, every weight as it was.

    Parameters
    ----------
    samples : {"input_ids", "labels"}, 1-D, of which `settings.samples` calibrate and all train
    out : the page, a name that ends in .html
    settings : as for `make_adapter`; A is made by Eq. 4, whose reasons the page gives
    title : of the page: the model's name; by default its family
    workers : processes that calibrate side by side

    Raises
    ------
    ConfigError, DataError, NumericsError, OutputError
        before any work for what can be known then.
    """
    settings = settings or AdapterSettings()
    if settings.init != "wc-svd":
        raise ConfigError(f"explain compares the four choices of A and trains the one of Eq. 4: init {settings.init}?")
    page = None if out is None else check_page(out, overwrite=overwrite)
    tell = progress or (lambda what, done, total: None)
    statistics, drawn = calibrate_for(
        settings, model, samples, workers=workers, progress=lambda done, total: tell("calibrating", done, total)
    )
    adapter = make_adapter(settings, model, statistics)
    assert adapter.plan is not None
    spectra, choices = _theory(model, statistics, adapter.plan, settings.seed, tell)
    start = {module: to_numpy(A).astype(np.float64) for module, A in adapter.A.items()}
    trained = "B" if adapter.frozen_A else "AB"
    history = _trained(model, adapter, samples, training, trained, tell)
    updates = {module: _update(model, adapter, module, A) for module, A in start.items()}
    found = Explanation(adapter.plan, len(drawn), spectra, choices, updates, history, trained)
    if page is not None:
        write_page(page, html_page(found, title or str(model.config.model_type)))
    return found


def _theory(
    model: Model, statistics: CalibrationStats, plan: Plan, seed: int, tell: Progress
) -> tuple[dict[str, Spectra], dict[str, Choices | None]]:
    """Spectra and choices of every module; modules that share an input share one C, decomposed once."""
    spectra: dict[str, Spectra] = {}
    choices: dict[str, Choices | None] = {}
    groups: dict[str, list[str]] = {}
    for module in plan.shapes:
        groups.setdefault(statistics.leader[module], []).append(module)

    def group(modules: list[str]) -> None:
        C = to_numpy(statistics.covariance[modules[0]]).astype(np.float64)
        root = Root.of(C)
        for module in modules:
            choices[module], sigma = compare(module, _weight(model, module), C, root, plan.r_init, seed)
            spectra[module] = Spectra(root.eigenvalues, sigma)
            tell("four choices of A", len(spectra), len(plan.shapes))

    def later(modules: list[str]) -> Callable[[], None]:
        return lambda: group(modules)

    device_of(np.zeros(0)).side_by_side([later(modules) for modules in groups.values()])
    return {m: spectra[m] for m in plan.shapes}, {m: choices[m] for m in plan.shapes}


def _weight(model: Model, module: str) -> Array:
    return to_numpy(model.weight(module)).astype(np.float64)


def _trained(
    model: Model,
    adapter: Adapter,
    samples: Sequence[Mapping[str, Any]],
    training: TrainSettings,
    trainable: str,
    tell: Progress,
) -> list[dict[str, Any]]:
    """The history of the first steps; the adapter is off the model again, whatever happened."""
    total = training.total_steps(len(samples))
    try:
        return train(
            model,
            adapter,
            samples,
            settings=training,
            trainable=trainable,
            on_step=lambda entry: tell("training", entry["step"], total),
        ).history
    finally:
        model.detach()


def _update(model: Model, adapter: Adapter, module: str, A: Array) -> Update:
    B, A_now = (to_numpy(x[module]).astype(np.float64) for x in (adapter.B, adapter.A))
    return measure_update(adapter.scale[module] * B @ A_now, _weight(model, module), A)
