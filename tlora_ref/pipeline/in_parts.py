"""An adapter for a model whose covariances do not fit into memory together: a few layers at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tlora_ref.adapter import Adapter, Plan, initialize
from tlora_ref.calibration import CalibrationStats
from tlora_ref.errors import OutputError
from tlora_ref.files import temporary
from tlora_ref.names import place
from tlora_ref.pipeline.adapters import AdapterSettings, Sample, calibrate_for
from tlora_ref.transformer import Model

Progress = Callable[[int, int], None]


def adapter_in_parts(
    settings: AdapterSettings,
    model: Model,
    samples: Sequence[Sample],
    layers: int,
    out: str | Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[Adapter, list[int]]:
    """Alg. 1, lines 4 to 17, the covariances of `layers` layers in memory at a time: the adapter that `calibrate_for`
    and `make_adapter` make, to the bit, and which samples were drawn.

    The samples go through the model once for every part. Ranks need the sensitivities of all modules, so the statistics
    of a part wait in a file beside `out` until they are there; none is left.

    Raises
    ------
    OutputError
        if there is no room for them; and what `calibrate` and `initialize` raise.
    """
    shapes = settings.shapes(model)
    parts = parts_of(shapes, layers)
    sensitivity: dict[str, float] = {}
    folder = temporary(Path(out))
    try:
        folder.mkdir(parents=True)
        for number, modules in enumerate(parts):
            told = None if progress is None else _of_all(progress, number, len(parts))
            part = replace(settings, targets=tuple(modules))
            stats, indices = calibrate_for(part, model, samples, workers=workers, progress=told)
            sensitivity |= stats.sensitivity
            stats.save(folder / f"{number}.safetensors")
            del stats  # before the next ones come
        plan = settings.allocate({module: sensitivity[module] for module in shapes}, shapes)
        made = []
        for number, modules in enumerate(parts):
            stats = CalibrationStats.load(folder / f"{number}.safetensors")
            made.append(initialize(model, stats, plan, init=settings.init, seed=settings.seed, modules=modules))
            del stats
    except OSError as error:
        raise OutputError(f"{folder}: statistics cannot be kept there ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _joined(made, plan), indices


def parts_of(modules: Iterable[str], layers: int) -> list[list[str]]:
    """The modules of `layers` layers each, in order; those that stand in no layer count as one."""
    by_layer: dict[str, list[str]] = {}
    for module in modules:
        by_layer.setdefault(place(module)[0], []).append(module)
    of_layers = list(by_layer.values())
    starts = range(0, len(of_layers), layers)
    return [[module for layer in of_layers[start : start + layers] for module in layer] for start in starts]


def _of_all(progress: Progress, number: int, parts: int) -> Progress:
    """What tells of one part, in terms of all."""
    return lambda done, samples: progress(number * samples + done, parts * samples)


def _joined(made: Sequence[Adapter], plan: Plan) -> Adapter:
    """One adapter with the modules of all, in the order of the plan."""
    whole = made[0]
    for name in ("A", "B", "scale", "sigma"):
        found = {module: x for part in made for module, x in getattr(part, name).items()}
        setattr(whole, name, {module: found[module] for module in plan.rank if module in found})
    return whole
