"""The history of a run in its folder: every step as JSON (`TrainResult.history`), and the logged ones as a table."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora_ref.errors import CheckpointError, OutputError, reason
from tlora_ref.files import parse_json, write_text

HISTORY_FILE = "history.jsonl"
METRICS_FILE = "metrics.csv"
#: The columns of METRICS_FILE; one that a step has no value for is empty there. New ones come at the end.
COLUMNS = ("step", "epoch", "lr", "loss", "tokens", "grad_norm", "valid_loss", "best")


@dataclass(frozen=True)
class Record:
    """Writes HISTORY_FILE and METRICS_FILE in `folder` (nowhere, for None), a line a step as it happens.

    Attributes
    ----------
    per_epoch, total : steps of an epoch, and of the run
    log_every : METRICS_FILE has the first step, every so many, the last, and those where held-out rows were evaluated
    """

    folder: Path | None
    per_epoch: int
    total: int
    log_every: int = 1

    def begin(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Both files whole, of the steps made so far. A run that was killed may have written more than its last state
        knows of: those steps are made again, and stand there once."""
        if self.folder is None:
            return
        rows = "".join(self._row(entry) for entry in history if self._logged(entry))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / HISTORY_FILE, "".join(map(_line, history)))
            write_text(self.folder / METRICS_FILE, ",".join(COLUMNS) + "\n" + rows)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def add(self, entry: Mapping[str, Any]) -> None:
        """One step more."""
        if self.folder is None:
            return
        try:
            with (self.folder / HISTORY_FILE).open("a", encoding="utf-8") as file:
                file.write(_line(entry))
            if self._logged(entry):
                with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                    file.write(self._row(entry))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _logged(self, entry: Mapping[str, Any]) -> bool:
        step = entry["step"]
        return step % self.log_every == 0 or step in (1, self.total) or "valid_loss" in entry

    def _row(self, entry: Mapping[str, Any]) -> str:
        text = io.StringIO()
        values = {**entry, "epoch": round(entry["step"] / self.per_epoch, 6), "best": int(bool(entry.get("best")))}
        csv.writer(text, lineterminator="\n").writerow([values.get(name, "") for name in COLUMNS])
        return text.getvalue()


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder}: the run's history cannot be written ({reason(error)})")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's history, none if there is no file; CheckpointError if it is damaged."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    try:
        return checked([parse_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line])
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: the run's history is damaged ({reason(error)})") from error


def checked(entries: Any) -> list[dict[str, Any]]:
    """The entries of a history from a file; ValueError for one without its step and losses."""
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        step, *losses = (entry.get(key, 0.0) for key in ("step", "loss", "valid_loss")) if _has_loss(entry) else (None,)
        if type(step) is not int or not all(type(x) in (int, float) and math.isfinite(x) for x in losses):
            raise ValueError(f"entry {i} is {entry!r:.60}, expected a step and finite losses")
    return list(entries)


def _has_loss(entry: Any) -> bool:
    return isinstance(entry, Mapping) and {"step", "loss"} <= set(entry)
