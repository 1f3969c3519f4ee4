"""Writing folders whole or not at all: everything goes to a folder beside, which is then renamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save_file

from tlora_ref.backend import Array
from tlora_ref.errors import OutputError, reason
from tlora_ref.files import LOCK_FILE, SET_ASIDE, clear_leftovers, exchanged, removed, temporary


def check_output(folder: str | Path, *, overwrite: bool = False, replace: bool = False) -> Path:
    """`folder`, if it can be written: it does not exist or is empty (or may be overwritten), and a parent will have it.

    Parameters
    ----------
    replace : the folder will be replaced whole, as `save_model` and `save_peft` do. That is refused where it holds
        folders: theirs never do, and a slip of the hand (`--out .`) must not cost a project

    Raises
    ------
    OutputError
        otherwise. Call it before long work, not after.
    """
    folder = Path(folder)
    try:
        clear_leftovers(folder)
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: there is a file of that name in the way. Choose another folder")
        if folder.is_dir() and any(path.name != LOCK_FILE for path in folder.iterdir()) and not overwrite:
            raise OutputError(
                f"{folder}: already exists and is not empty. Choose another folder, or replace it: --overwrite (from "
                "Python, overwrite=True)"
            )
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir()) if replace and folder.is_dir() else []
        if inner:
            raise OutputError(
                f'{folder}: holds the folder "{inner[0]}", so it is not one to overwrite whole. Choose another folder, '
                "or remove it yourself"
            )
        there = next(parent for parent in folder.absolute().parents if parent.exists())
        trial = temporary(there / folder.name)  # of a name that the next run clears, should this one end here
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({reason(error)})") from error
    return folder


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the name `folder` only when all went well; an old one stays until then."""
    target = check_output(folder, overwrite=overwrite, replace=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary(target)
    beside.mkdir()
    try:
        yield beside
        _swap(beside, target)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target}: cannot be written ({reason(error)})") from error
    finally:
        removed(beside)


def _swap(beside: Path, target: Path) -> None:
    """`beside` becomes `target`; what was there goes only once the new one stands."""
    if not target.exists():
        beside.rename(target)
        return
    if exchanged(beside, target):  # what was there is `beside` now
        return
    old = temporary(target)
    old = old.with_name(old.name + SET_ASIDE)
    target.rename(old)
    try:
        beside.rename(target)
    except BaseException:  # an interrupt as well: the old one comes back
        old.rename(target)
        raise
    removed(old)


def write_tensors(tensors: Mapping[str, Array], path: Path) -> None:
    """A safetensors file as PyTorch's tools expect it."""
    save_file({name: _contiguous(x) for name, x in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _contiguous(x: Array) -> Array:
    return x if x.flags.c_contiguous else x.copy()


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """A JSON file, indented, ending in a newline."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
