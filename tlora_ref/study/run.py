"""Runs a study's cells, side by side where there is an executor, and keeps each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tlora_ref.errors import DeviceError, TLoRAError, reason
from tlora_ref.files import claimed
from tlora_ref.study.cell import digests_of, key_of, run_cell
from tlora_ref.study.cost import estimated_seconds
from tlora_ref.study.declaration import Cell, Study
from tlora_ref.study.results import Results, measured, read_results, set_aside, write_results

PLACES = tuple(f.name for f in fields(Cell))
#: Called after each run with (runs done, runs in all, the run that ended).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Work:
    """What of a study is still to be done.

    Attributes
    ----------
    cells : every cell with its key; cells of one key are one run
    there : keys of the runs that are there
    todo : {key: a cell} of those that are not
    seconds : about how long they take one after the other on this machine
    measured : whether `seconds` is from runs that are there; else from a part of a training step, made here
    """

    cells: list[tuple[str, Cell]]
    there: frozenset[str]
    todo: dict[str, Cell]
    seconds: float
    measured: bool

    def states(self) -> Iterator[tuple[Cell, str]]:
        """Each cell with "there", "to run", or "same run as above" where another cell makes it."""
        for key, cell in self.cells:
            state = "to run" if self.todo.get(key) == cell else "same run as above"
            yield cell, "there" if key in self.there else state


def run_study(
    study: Study, out: str | Path, *, executor: Executor | None = None, progress: Progress | None = None
) -> Results:
    """Every run of `study` that `out` does not hold yet; what it holds is kept, another study's runs too.

    Where an older grid of the same name has runs that this one has not, it stays beside it, as NAME.1.

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
        cells, held = _keyed(study), read_results(out)
        found = measured(held, PLACES)
        todo = _todo(cells, found)
        keys = {key for key, _ in cells}
        set_aside(out, held, study.name, keys)
        kept = _gathered(study, cells, found)
        write_results(out, kept)
        for key, value in _ended(study, todo, executor):
            found[key] = value
            kept = _gathered(study, cells, found)
            write_results(out, kept)
            if progress is not None:
                progress(len(keys & set(found)), len(keys), str(todo[key]))
    return kept


def work_of(study: Study, out: str | Path | None = None, listed: Collection[str] = ()) -> Work:
    """What `run_study` would do, and about what it would take; `listed` are keys of runs that come before it anyway."""
    cells, held = _keyed(study), [] if out is None else read_results(out)
    found = measured(held, PLACES)
    todo = {key: cell for key, cell in _todo(cells, found).items() if key not in listed}
    mine = [value["seconds"] for key, value in found.items() if key in dict(cells) and "seconds" in value]
    if mine:
        each = sum(sum(seconds.values()) for seconds in mine) / len(mine)
        return Work(cells, frozenset(found), todo, each * len(todo), True)
    return Work(cells, frozenset(found), todo, estimated_seconds(study, todo.values()), False)


def works_of(studies: Sequence[Study], out: str | Path | None = None) -> tuple[list[Work], int, float]:
    """The work of studies that are run one after the other into one folder; its runs and its seconds in all.

    A run that two of them need is the first one's.
    """
    works: list[Work] = []
    for study in studies:
        works.append(work_of(study, out, {key for work in works for key in work.todo}))
    return works, sum(len(work.todo) for work in works), sum(work.seconds for work in works)


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
            f"a worker of the study died ({reason(error)}), most likely for want of memory: the runs that had ended "
            "are kept. Run the study again with fewer workers"
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
