"""The last few states of a run, a folder each: to go back to, and with the adapter as it was then."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tlora_ref.errors import CheckpointError, OutputError, reason
from tlora_ref.files import temporary
from tlora_ref.training.state import STATE_FILE

#: In a run's folder; below it `step-100` and so on, each with STATE_FILE and the adapter.
STEPS_FOLDER = "checkpoints"
ADAPTER = "adapter"
#: The names of what is being written, or removed.
BESIDE = "step"


def kept_steps(folder: Path) -> list[int]:
    """The steps that a run's folder holds, in order."""
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.joinpath(STEPS_FOLDER).glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def step_folder(folder: Path, step: int) -> Path:
    """Where a step stands in a run's folder."""
    return folder / STEPS_FOLDER / f"step-{step}"


def check_step(folder: Path, step: int) -> Path:
    """`step_folder`; CheckpointError, which says what there is, where the run kept no such step."""
    found = step_folder(folder, step)
    if not (found / STATE_FILE).is_file():
        there = ", ".join(map(str, kept_steps(folder))) or "none: --keep-last N keeps the last N"
        raise CheckpointError(f"{found}: step {step} was not kept. The steps there are: {there}")
    return found


def clear_steps(folder: Path) -> None:
    """A run that begins anew has nothing to do with the steps that an earlier one kept."""
    try:
        if folder.joinpath(STEPS_FOLDER).exists():
            shutil.rmtree(folder / STEPS_FOLDER)
    except OSError as error:
        raise OutputError(f"{folder / STEPS_FOLDER}: cannot be cleared ({reason(error)})") from error


def keep_step(folder: Path, step: int, keep_last: int, save_adapter: Callable[[Path], object] | None) -> None:
    """Keep the state just written to `folder` as that of `step`, and of all such the last `keep_last` alone.

    The new one is there as a whole before an old one goes, and an old one goes as a whole.

    Parameters
    ----------
    save_adapter : called with the path of a folder in the new one, to write the adapter there
    """
    target = step_folder(folder, step)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = temporary(target.parent / BESIDE)  # which clears what a killed run left
        if not target.exists():  # a run that was resumed comes to the same bits again
            beside.mkdir()
            _linked(folder / STATE_FILE, beside / STATE_FILE)
            if save_adapter is not None:
                save_adapter(beside / ADAPTER)
            beside.rename(target)
        for old in kept_steps(folder)[:-keep_last]:
            step_folder(folder, old).rename(beside)
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({reason(error)})") from error


def _linked(file: Path, name: Path) -> None:
    """`file` under another name: no second copy of it where the file system can do that."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
