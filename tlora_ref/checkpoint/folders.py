"""Which folder is meant where an adapter, or a model, is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlora_ref.checkpoint.hub import find_adapter
from tlora_ref.checkpoint.peft_claims import CONFIG
from tlora_ref.checkpoint.peft_config import FACTS, WEIGHTS
from tlora_ref.checkpoint.reader import read_json
from tlora_ref.errors import CheckpointError
from tlora_ref.files import recovered

#: Names of folders in that of a training run: the trained adapter, and the one that the run starts from.
TRAINED, INITIAL = "adapter", "initial_adapter"


def adapter_folder(path: str | Path) -> Path:
    """The adapter's folder: `path` itself, or that of the run in `path` (OUT for OUT/adapter), or of a file in it, or a
    repository's in the Hugging Face cache (NAME/REPO).

    Raises
    ------
    CheckpointError
        if there is nothing, no adapter, or a choice of several; the message says what is there.
    """
    path = find_adapter(path)
    if path.is_file() and path.name in (CONFIG, WEIGHTS):
        return path.parent
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder. Give the folder that holds {CONFIG}")
    for folder in (path, recovered(path / TRAINED)):
        if (folder / CONFIG).is_file():
            return folder
    inner = sorted(folder.parent.name for folder in path.glob(f"*/{CONFIG}"))
    if inner == [INITIAL]:
        raise CheckpointError(
            f"{path}: the run there did not end, so it has no trained adapter yet. Go on with it (train --resume), or "
            f"take the one it started from, {path / INITIAL}"
        )
    if inner:
        raise CheckpointError(f"{path}: holds several adapters: give one, e.g. {path / inner[-1]} ({', '.join(inner)})")
    if (path / "config.json").is_file():
        raise CheckpointError(f"{path}: is a model's folder, not an adapter's: there is no {CONFIG}")
    return path


def holds_adapter(path: Path) -> bool:
    """Whether `path` is an adapter's folder or a run's that has one."""
    return any((folder / CONFIG).is_file() for folder in (path, path / TRAINED))


def adapter_facts(path: str | Path) -> dict[str, Any]:
    """What was noted when this library made the adapter (`save_peft`'s facts); empty for another's."""
    file = adapter_folder(path) / FACTS
    facts = read_json(file).get("facts") if file.is_file() else None
    return facts if isinstance(facts, dict) else {}


def check_model_folder(path: str | Path) -> Path:
    """`path`, unless it is plainly something else than a model's folder or its config.json.

    Raises
    ------
    CheckpointError
        for nothing, an adapter's or a run's folder, data, or one file of a model; the message says what it is.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such folder. Give that of a Hugging Face checkpoint")
    if path.is_file() and path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: is one file of a model: give its folder, {path.parent}")
    if path.is_file() and path.suffix != ".json":
        raise CheckpointError(f"{path}: is a file, not a model's folder. The model comes first; data follow --data")
    if path.is_dir() and not (path / "config.json").exists():
        if holds_adapter(path):
            raise CheckpointError(
                f"{path}: is an adapter's folder, not a model's: give the model first, then --adapter {path}"
            )
        if any(path.glob("train.*")) or any(path.glob("test.*")):
            raise CheckpointError(f"{path}: holds data, not a model. The model comes first; data follow --data")
    return path
