"""The results of studies as files: JSON Lines, the study's declaration first, then a line a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora_ref.errors import DataError
from tlora_ref.files import write_text

SUFFIX = ".jsonl"


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
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not lines:
        raise DataError(f"{file}: is empty: remove it, and run the study again")
    head, *runs = lines
    return Results(head["study"], runs, head["cells"])


def _line(file: Path, number: int, text: str) -> dict[str, Any]:
    expected = ("study", "cells") if number == 1 else ("key", "variant", "lr", "seed", "valid_loss", "test_loss")
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"{file}, line {number}: is no JSON ({error}): remove that line; its run is made again"
        ) from error
    missing = [key for key in expected if not isinstance(found, dict) or key not in found]
    if missing:
        raise DataError(f"{file}, line {number}: lacks {', '.join(missing)}: it is no line of a study's results")
    return found


def measured(results: Sequence[Results], places: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{key: what was measured}, without the names that one study gives to the places of its grid."""
    return {run["key"]: _without(run, places) for found in results for run in found.runs}


def _without(run: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in names and name != "key"}
