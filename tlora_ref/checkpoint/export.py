"""Adapters in the formats of the programs that people run models with: llama.cpp, MLX, and whatever knows one rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tlora_ref.adapter import Adapter
from tlora_ref.checkpoint.export_gguf import write_gguf
from tlora_ref.checkpoint.export_mlx import write_mlx
from tlora_ref.checkpoint.folders import adapter_folder
from tlora_ref.checkpoint.hub import REPOSITORY, find_model
from tlora_ref.checkpoint.load import read_config
from tlora_ref.checkpoint.peft_config import read_peft_config
from tlora_ref.checkpoint.peft_load import load_peft
from tlora_ref.checkpoint.peft_save import save_universal
from tlora_ref.checkpoint.write import new_folder
from tlora_ref.errors import ConfigError

#: What an adapter is written for: a function (adapter, the model's configuration, folder).
WRITERS: dict[str, Callable[..., None]] = {"gguf-lora": write_gguf, "mlx": write_mlx}
FORMATS = (*WRITERS, "peft-uniform")
#: Where an adapter names its model.
BASE = "base_model_name_or_path"


def export_adapter(
    source: str | Path,
    to: str,
    folder: str | Path,
    *,
    model_folder: str | Path | None = None,
    overwrite: bool = False,
) -> Adapter:
    """Write a PEFT adapter for another program, in float32; returns it as it was read.

    Parameters
    ----------
    to : "gguf-lora" (`adapter.gguf`, for llama.cpp's `--lora`), "mlx" (`adapters.safetensors` and
        `adapter_config.json`, for mlx-lm) or "peft-uniform" (a PEFT folder of one rank and one alpha, see
        `save_universal`)
    model_folder : the base model's folder (or NAME/REPO), of which config.json alone is read; by default the NAME/REPO
        that the adapter names. "peft-uniform" needs none

    Raises
    ------
    ConfigError
        for another format, a family or a part of the adapter that it has no place for, or a model that is not found.
    OutputError
        if the folder exists or cannot be written; nothing is left half-written.
    """
    if to not in FORMATS:
        raise ConfigError(f'export: there is no format "{to}": expected one of {", ".join(FORMATS)}')
    adapter, named = load_peft(source, dtype="float32"), read_peft_config(adapter_folder(source)).get(BASE)
    if to == "peft-uniform":
        save_universal(adapter, folder, base_model=named if isinstance(named, str) else None, overwrite=overwrite)
        return adapter
    if model_folder is None:
        if not isinstance(named, str) or not REPOSITORY.fullmatch(named):  # a path in a file is not followed
            raise ConfigError(f"export --to {to}: which model is {source} for? Give its folder: --model MODEL")
        model_folder = named
    config, _ = read_config(find_model(model_folder))
    _only_matrices(adapter, to)
    with new_folder(folder, overwrite=overwrite) as beside:
        WRITERS[to](adapter, config, beside)
    return adapter


def _only_matrices(adapter: Adapter, to: str) -> None:
    """ConfigError for what is neither A nor B of a linear module."""
    if adapter.saved:
        raise ConfigError(
            f"export --to {to}: the adapter holds {', '.join(sorted(adapter.saved)[:5])} whole, and the format has A "
            "and B alone. Merge the adapter (tlora-ref merge) and convert the merged folder"
        )
    if adapter.tables:
        raise ConfigError(
            f"export --to {to}: the adapter sits on the embedding {', '.join(sorted(adapter.tables))}, for which the "
            "format has no place. Merge the adapter (tlora-ref merge) and convert the merged folder"
        )
