"""From a Hugging Face folder to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import Array, get_device
from tlora_ref.checkpoint.reader import iterate, read_folder, read_json
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.transformer import Model, family

DTYPES = ("float64", "float32")


def checked_dtype(name: str) -> np.dtype[Any]:
    """The dtype called `name`, one that this library computes in."""
    if str(name) not in DTYPES:
        raise ConfigError(f'dtype "{name}" is not supported: expected {" or ".join(DTYPES)} (files may hold others)')
    return np.dtype(str(name))


def read_config(folder: str | Path) -> tuple[Any, type[Model]]:
    """The configuration and model class of a checkpoint folder (or of a config.json itself)."""
    path = Path(folder)
    values = read_json(path if path.suffix == ".json" else path / "config.json")
    config_class, model_class = family(values.get("model_type"))
    return config_class.from_dict(values), model_class


def load_model(folder: str | Path, dtype: str = "float64", device: str = "cpu") -> Model:
    """The model in a Hugging Face folder: config.json and safetensors (f32, f16, bf16, f64; one file or shards).

    Parameters
    ----------
    dtype : "float64" (the oracle's) or "float32" (for work): what the weights are widened or rounded to
    device : "cpu" or "gpu"

    Raises
    ------
    CheckpointError
        if files or tensors are missing, damaged, misshaped, extra, or hold NaN or infinity; all are named.
    ConfigError
        if the configuration asks for something that is not implemented.
    DeviceError
        if the device is not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give the folder that holds config.json")
    place, kind = get_device(device), checked_dtype(dtype)
    config, model_class = read_config(folder)
    tensors = model_class.sanitize(dict(iterate(read_folder(folder))), config)
    _check_tensors(folder, tensors, model_class.tensor_shapes(config))
    placed: dict[str, Array] = {}
    for name in model_class.tensor_shapes(config):
        host = np.asarray(tensors.pop(name)).astype(kind, order="C")
        if not np.isfinite(host).all():
            bad = int((~np.isfinite(host)).sum())
            raise CheckpointError(
                f'{folder}: tensor "{name}" holds {bad} value(s) that are NaN or infinite (of {host.size}, as {kind}). '
                "The checkpoint is damaged or was saved from a diverged run"
            )
        placed[name] = place.put(host)
    return model_class(config, placed)


def _check_tensors(folder: Path, tensors: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    """Every tensor there, none left over, each of its shape and of a floating dtype: all faults in one message."""
    faults = [f"missing: {name} {shape}" for name, shape in shapes.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name not in shapes:
            faults.append(f"extra: {name} {tensor.shape}")
        elif tensor.shape != shapes[name]:
            faults.append(f"misshaped: {name} is {tensor.shape}, expected {shapes[name]}")
        elif not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            faults.append(f"not floating point: {name} is {tensor.dtype}")
    if faults:
        more = f" ... and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise CheckpointError(
            f"{folder}: the tensors do not fit config.json:\n  " + "\n  ".join(faults[:8]) + more + "\n"
            "Is it the right config.json, and a model of that family?"
        )
