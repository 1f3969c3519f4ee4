"""About how long runs take that nobody has made yet: parts of each kind of work are done here, and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tlora_ref.planning import plan_memory, plan_run
from tlora_ref.study.cell import Draw, another_draw, draw_of, prepared
from tlora_ref.study.declaration import OWN, Cell, Rows, Study
from tlora_ref.training import TrainSettings

#: Samples by which the time of calibration on one is planned.
CALIBRATED = 8


class _Costs(NamedTuple):
    """Seconds of training with evaluation, of calibration on one sample, and of all SVDs."""

    training: float
    sample: float
    initialisation: float


def estimated_seconds(study: Study, cells: Iterable[Cell]) -> float:
    """Seconds of the cells, one after the other in one process; a calibration counts once where cells share it."""
    seconds, drawn = 0.0, set[Draw]()
    for cell in cells:
        variant = study.variants[cell.variant]
        rows = study.tasks[cell.task]
        costs = _costs(study.models[cell.model], rows, study.dtype, cell.rank, study.steps, study.batch_size)
        seconds += costs.training + (costs.initialisation if variant.init in ("wc-svd", "theory") else 0.0)
        for draw in _draws(study, cell) - drawn:
            drawn.add(draw)
            seconds += draw.samples * costs.sample
    return seconds


def _draws(study: Study, cell: Cell) -> set[Draw]:
    """The calibrations that a cell needs."""
    variant = study.variants[cell.variant]
    if not variant.calibrated:
        return set()
    own = {draw_of(study, cell, variant.profile)}
    return own if study.calibrated_on == (OWN,) else own | {another_draw(study, cell, variant.profile)}


@lru_cache(maxsize=64)
def _costs(model: Path, rows: Rows, dtype: str, rank: int, steps: int, batch_size: int) -> _Costs:
    _, samples = prepared(model, rows, dtype, 0)
    settings = TrainSettings(steps=steps, batch_size=batch_size, seed=0)
    held_out = [*samples["valid"], *samples["test"]]
    options: dict[str, Any] = {"samples": CALIBRATED, "dtype": dtype, "settings": settings}
    took = plan_run(plan_memory(model, rank), samples["train"], held_out, **options).seconds
    training = steps * took["step"] + took["evaluation"]
    return _Costs(training, took["calibration"] / CALIBRATED, took["initialisation"])
