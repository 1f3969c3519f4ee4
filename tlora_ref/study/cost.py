"""About how long runs take that nobody has made yet: a part of a training step is made here, and scaled."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tlora_ref.planning import mean_tokens, padded_tokens, plan_memory, plan_time, plan_training
from tlora_ref.study.cell import Draw, another_draw, draw_of, prepared
from tlora_ref.study.declaration import OWN, Cell, Rows, Study

#: Of a training step with frozen weights, what the forward pass alone takes; and what calibration takes, which has dW
#: of every target and X^T X beside.
FORWARD, CALIBRATION = 0.5, 1.5


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
    memory = plan_memory(model, rank)
    _, samples = prepared(model, rows, dtype, 0)
    lengths = [len(sample["input_ids"]) for sample in samples["train"]]
    padded = padded_tokens(lengths, batch_size, 0)
    step = plan_training(memory, tokens=padded, batch_size=batch_size, dtype=dtype).step_seconds
    alone = plan_training(memory, tokens=mean_tokens(lengths), batch_size=1, dtype=dtype).step_seconds
    held_out = (len(samples["valid"]) + len(samples["test"])) / batch_size
    svds = 3600 * plan_time(memory).hours["initialisation"]
    return _Costs(step * (steps + FORWARD * held_out), CALIBRATION * alone, svds)
