"""A run that was stopped before its end: how far it came, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora_ref.checkpoint import INITIAL, TRAINED
from tlora_ref.checkpoint.reader import read_json
from tlora_ref.files import read_yaml
from tlora_ref.training import out_of_patience, planned_steps

#: Where a run keeps its flags, and the command that made it.
FLAGS, MANIFEST = "config.yaml", "manifest.json"


@dataclass(frozen=True)
class Unfinished:
    """Steps that were `made`, of so many `planned`, and the `command` that goes on; None for what is not known."""

    made: int
    planned: int | None
    command: str | None

    def lines(self) -> list[str]:
        """For a person."""
        of = "" if self.planned is None else f" of {self.planned}"
        how = "the command that made it, with --resume" if self.command is None else self.command
        return [f"this run did not end: {self.made}{of} steps so far. To go on:", f"  {how}"]


def unfinished(folder: Path, losses: Sequence[Mapping[str, Any]]) -> Unfinished | None:
    """What a run has left to do; None for one that ended, and for a folder that is no run's.

    A run saves its state when it ends. Where there is none, one that has an adapter is taken to have ended.
    """
    if not (folder / INITIAL).is_dir():
        return None
    planned, made = planned_steps(folder), int(losses[-1]["step"]) if losses else 0
    flags = flags_of(folder)
    patience = flags.get("patience")
    over = planned is None or made >= planned or out_of_patience(losses, patience if type(patience) is int else None)
    return None if over and (folder / TRAINED).is_dir() else Unfinished(made, planned, _command(folder))


def flags_of(folder: Path) -> dict[Any, Any]:
    """The flags that a run noted, none where it noted none."""
    flags = read_yaml(folder / FLAGS) if (folder / FLAGS).is_file() else None
    return flags if isinstance(flags, dict) else {}


def _command(folder: Path) -> str | None:
    """The run's command with --resume, as it can be given to a shell."""
    words = read_json(folder / MANIFEST).get("command") if (folder / MANIFEST).is_file() else None
    if not isinstance(words, list) or not all(isinstance(word, str) and word.isprintable() for word in words):
        return None
    return shlex.join([*(word for word in words if word not in ("--overwrite", "--resume")), "--resume"])
