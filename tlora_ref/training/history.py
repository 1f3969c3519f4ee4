"""The history of a run in its folder: one JSON object a step, as `TrainResult.history` has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlora_ref.errors import CheckpointError
from tlora_ref.files import write_text

HISTORY_FILE = "history.jsonl"


def append_history(folder: Path, entry: Mapping[str, Any]) -> None:
    """A step as it happens."""
    with (folder / HISTORY_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def write_history(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """The whole at the end: a run may have been stopped past its last state, and steps written twice."""
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    write_text(folder / HISTORY_FILE, lines)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's history, none if there is no file; CheckpointError if it is damaged."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return [{**entry, "step": int(entry["step"]), "loss": float(entry["loss"])} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the run's history is damaged ({type(error).__name__}: {error})") from error
