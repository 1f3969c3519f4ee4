"""The results of studies as files: JSON Lines, the study's declaration first, then a line a run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora_ref.errors import DataError, reason
from tlora_ref.files import parse_json, write_text

SUFFIX = ".jsonl"
#: Whether a value is what stands at a place of a line.
Kind = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(value: Any) -> bool:
    return all(map(_number, value.values() if isinstance(value, dict) else value if isinstance(value, list) else [""]))


def _rates(value: Any) -> bool:
    """Learning rates: a list, or each variant's own list, which is not empty."""
    if not isinstance(value, dict):
        return _numbers(value)
    return all(isinstance(rates, list) and rates != [] and _numbers(rates) for rates in value.values())


def _or_nothing(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


#: What the lines hold that are read: the declaration, a run, and one that diverged.
HEAD: dict[str, Kind] = {
    **dict.fromkeys(("study/name", "study/title", "study/baseline"), _text),
    **dict.fromkeys(("study/steps", "study/batch_size", "cells"), _count),
    "study/learning_rates": _rates,
    "study/paper": _or_nothing(lambda value: isinstance(value, dict)),
    "study/paper/values": _or_nothing(lambda value: isinstance(value, dict) and _numbers(value)),
}
PLACE: dict[str, Kind] = {
    **dict.fromkeys(("key", "model", "task", "calibrated_on", "variant", "equal"), _text),
    **dict.fromkeys(("rank", "samples", "seed", "r_init", "trained"), _count),
    **{"lr": _number, "phi": _or_nothing(_number)},
}
RUN: dict[str, Kind] = {
    **PLACE,
    **dict.fromkeys(("valid_loss", "test_loss", "peak_bytes", "gradient_norm/first"), _number),
    "seconds": _numbers,
}
DIVERGED: dict[str, Kind] = {**PLACE, "error": _text}


@dataclass(frozen=True)
class Results:
    """A study's declaration as JSON values (`Study.to_dict`), and its runs that have ended, in the grid's order.

    A run is its place in the grid (`Cell`), its `key`, and what `run_cell` measured.
    """

    study: dict[str, Any]
    runs: list[dict[str, Any]]
    cells: int

    @property
    def name(self) -> str:
        """The study's."""
        return str(self.study["name"])

    @property
    def complete(self) -> bool:
        """Whether every cell of the grid has been run."""
        return len(self.runs) == self.cells


def write_results(folder: Path, results: Results) -> None:
    """`folder/NAME.jsonl`, whole at any moment."""
    head = {"study": results.study, "cells": results.cells}
    lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) for line in (head, *results.runs)]
    write_text(folder / f"{results.name}{SUFFIX}", "\n".join(lines) + "\n")


def set_aside(folder: Path, held: Sequence[Results], name: str, keys: Collection[str]) -> None:
    """Keep the older grid of a study as `NAME.1` (or the next free number) where it has runs with none of `keys`."""
    elsewhere = {run["key"] for results in held if results.name != name for run in results.runs}
    for results in held:
        if results.name == name and any(run["key"] not in elsewhere.union(keys) for run in results.runs):
            taken = {other.name for other in held}
            older = next(f"{name}.{n}" for n in itertools.count(1) if f"{name}.{n}" not in taken)
            write_results(folder, Results({**results.study, "name": older}, results.runs, results.cells))


def holds_results(folder: Path) -> bool:
    """Whether a study was run into the folder."""
    for file in folder.glob(f"*{SUFFIX}"):
        with file.open("rb") as stream:
            if stream.readline(64).startswith(b'{"study":'):
                return True
    return False


def read_results(folder: str | Path) -> list[Results]:
    """Every study's results in a folder, by name.

    Raises
    ------
    DataError
        for a file that is damaged, by name and line.
    """
    return [read_file(file) for file in sorted(Path(folder).glob(f"*{SUFFIX}"))]


def read_file(file: Path) -> Results:
    """The results in one file; DataError as `read_results`."""
    lines: list[dict[str, Any]] = []
    try:
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            lines.append(_line(file, number, text))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error
    if not lines:
        raise DataError(f"{file}: is empty: remove it, and run the study again")
    head, *runs = lines
    return Results(head["study"], runs, head["cells"])


def _line(file: Path, number: int, text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise DataError(
            f"{file}, line {number}: is no JSON ({reason(error)}): remove that line; its run is made again"
        ) from error
    odd = _odd(found, HEAD if number == 1 else RUN if _place(found, "valid_loss") is not None else DIVERGED)
    if odd:
        raise DataError(
            f"{file}, line {number}: {', '.join(odd)} missing or of another kind: it is no line of a study's results. "
            "Remove that line; its run is made again"
        )
    return dict(found)


def _odd(line: Any, expected: Mapping[str, Kind]) -> list[str]:
    """The places of a line that do not hold what they should."""
    return [place for place, fits in expected.items() if not fits(_place(line, place))]


def _place(line: Any, place: str) -> Any:
    """What stands at `a/b`, None where nothing does."""
    for name in place.split("/"):
        line = line.get(name) if isinstance(line, Mapping) else None
    return line


def measured(results: Sequence[Results], places: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{key: what was measured}, without the names that one study gives to the places of its grid."""
    return {run["key"]: _without(run, places) for found in results for run in found.runs}


def _without(run: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in names and name != "key"}
