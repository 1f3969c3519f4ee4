"""Runs a study's cells, side by side where there is an executor, and keeps each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tlora_ref.errors import DeviceError, TLoRAError
from tlora_ref.files import claimed
from tlora_ref.planning import plan_memory
from tlora_ref.planning.time import EFFICIENCY, operations, product_rate
from tlora_ref.study.cell import digests_of, key_of, place_of, prepared, run_cell
from tlora_ref.study.declaration import Cell, Study
from tlora_ref.study.results import Results, measured, read_results, write_results

PLACES = tuple(f.name for f in fields(Cell))
#: Called after each run with (runs done, runs in all, the run that ended).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Work:
    """What of a study is still to be done.

    Attributes
    ----------
    cells : every cell with its key; cells of one key are one run
    todo : {key: a cell} of the runs that are not there yet
    seconds : about how long they take one after the other on this machine
    measured : whether `seconds` is from runs that are there; else operations are counted, which is too little for
        small models
    """

    cells: list[tuple[str, Cell]]
    todo: dict[str, Cell]
    seconds: float
    measured: bool

    def states(self) -> Iterator[tuple[Cell, str]]:
        """Each cell with "there", "to run", or "same run as above" where another cell makes it."""
        for key, cell in self.cells:
            own = self.todo.get(key)
            yield cell, "there" if own is None else "to run" if own == cell else "same run as above"


def run_study(
    study: Study, out: str | Path, *, executor: Executor | None = None, progress: Progress | None = None
) -> Results:
    """Every run of `study` that `out` does not hold yet; what it holds is kept, another study's runs too.

    A run is written when it ends: whatever stops the process, the runs that had ended are there, and the same call goes
    on. Each run starts from the files and its own seed, so results depend on no order and no number of workers.

    Parameters
    ----------
    out : a folder; the results are `out/NAME.jsonl`
    executor : any `concurrent.futures.Executor`, a Dask cluster's (`client.get_executor()`) too, whose workers see the
        model's and the tasks' folders; None runs one after the other here

    Raises
    ------
    OutputError
        if `out` cannot be written, or another study is being run into it.
    DeviceError
        if a worker died.
    TLoRAError
        if a cell cannot be run; the message names it.
    """
    out = Path(out)
    with claimed(out):
        cells, found = _keyed(study), measured(read_results(out), PLACES)
        todo = _todo(cells, found)
        keys = {key for key, _ in cells}
        kept = _gathered(study, cells, found)
        write_results(out, kept)
        for key, value in _ended(study, todo, executor):
            found[key] = value
            kept = _gathered(study, cells, found)
            write_results(out, kept)
            if progress is not None:
                progress(len(keys & set(found)), len(keys), str(todo[key]))
    return kept


def work_of(study: Study, out: str | Path | None = None) -> Work:
    """What `run_study` would do, and about what it would take."""
    cells, held = _keyed(study), [] if out is None else read_results(out)
    found = measured(held, PLACES)
    todo = _todo(cells, found)
    mine = [value["seconds"] for key, value in found.items() if key in dict(cells) and "seconds" in value]
    if mine:
        each = sum(sum(seconds.values()) for seconds in mine) / len(mine)
        return Work(cells, todo, each * len(todo), True)
    return Work(cells, todo, _estimated(study, todo), False)


def _estimated(study: Study, todo: dict[str, Cell]) -> float:
    """Seconds, from the operations of calibration, training and evaluation, at the rate of bare products."""
    flop = 0.0
    each: dict[tuple[str, str, int], float] = {}
    for cell in todo.values():
        place = (cell.model, cell.task, cell.samples)
        if place not in each:
            memory = plan_memory(study.models[cell.model], cell.rank)
            _, samples = prepared(*place_of(study, cell))
            lengths = [len(sample["input_ids"]) for sample in samples["train"]]
            held_out = (len(samples["valid"]) + len(samples["test"])) // 3  # a third: forwards alone
            passes = study.steps * study.batch_size + cell.samples + held_out
            each[place] = sum(operations(memory, passes, max(1, sum(lengths) // len(lengths))).values())
        flop += each[place]
    return flop / (EFFICIENCY * product_rate()) if todo else 0.0


def _keyed(study: Study) -> list[tuple[str, Cell]]:
    digests = digests_of(study)
    return [(key_of(study, cell, digests), cell) for cell in study.cells()]


def _todo(cells: list[tuple[str, Cell]], found: dict[str, dict[str, Any]]) -> dict[str, Cell]:
    """The runs that are not there, each by the first of its cells, in the grid's order."""
    todo: dict[str, Cell] = {}
    for key, cell in cells:
        if key not in found:
            todo.setdefault(key, cell)
    return todo


def _gathered(study: Study, cells: list[tuple[str, Cell]], found: dict[str, dict[str, Any]]) -> Results:
    runs = [{"key": key, **cell.to_dict(), **found[key]} for key, cell in cells if key in found]
    return Results(study.to_dict(), runs, len(cells))


def _ended(study: Study, todo: dict[str, Cell], executor: Executor | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was measured, as each run ends."""
    if executor is None:
        for key, cell in todo.items():
            yield key, _named(cell, lambda cell=cell: run_cell(study, cell))  # type: ignore[misc]
        return
    submitted: dict[Future[dict[str, Any]], str] = {}
    try:
        for key, cell in todo.items():
            submitted[executor.submit(run_cell, study, cell)] = key
        for future in as_completed(submitted):
            key = submitted[future]
            yield key, _named(todo[key], future.result)
    except BrokenExecutor as error:
        raise DeviceError(
            f"a worker of the study died ({error}), most likely for want of memory: the runs that had ended are kept. "
            "Run the study again with fewer workers"
        ) from error
    finally:
        for future in submitted:
            future.cancel()


def _named(cell: Cell, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` gives; an error says which cell it was."""
    try:
        return run()
    except TLoRAError as error:
        raise type(error)(f"{cell}: {error}") from error
