"""The model that comes with the library, in a source tree and in an installed wheel."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tlora_ref.errors import CheckpointError

NAME = "tiny-math-llama"


def shipped_model() -> Path:
    """The folder of tiny-math-llama, a Llama of 857,216 weights; `task/` in it has rows to fine-tune on.

    Raises
    ------
    CheckpointError
        if this installation was made without it.
    """
    in_tree = Path(__file__).resolve().parents[1] / "models" / NAME
    if in_tree.is_dir():
        return in_tree
    try:
        listed = files("tlora-ref") or []
    except PackageNotFoundError:
        listed = []
    for entry in listed:  # a wheel's data files stand below the environment's `share`
        if entry.parts[-2:] == (NAME, "config.json"):
            return Path(entry.locate()).resolve().parent
    raise CheckpointError(f"this installation came without the model {NAME}: install the wheel, or use the source tree")
