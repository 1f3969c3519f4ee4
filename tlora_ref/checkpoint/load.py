"""From a Hugging Face folder to a model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import BFLOAT16, Array, cache_blocks, get_device
from tlora_ref.checkpoint.folders import check_model_folder
from tlora_ref.checkpoint.generation_config import end_tokens
from tlora_ref.checkpoint.hub import find_model
from tlora_ref.checkpoint.mapping import release, unchanged
from tlora_ref.checkpoint.reader import check_finite, inside, read_folder, read_json, read_tensors, shown
from tlora_ref.errors import CheckpointError, ConfigError, did_you_mean
from tlora_ref.machine import kernel_hint
from tlora_ref.transformer import Encoder, EncoderClassifier, Model, classifier, family
from tlora_ref.transformer.holding import holdable
from tlora_ref.transformer.settings import told

DTYPES = ("float64", "float32")
#: What others call them. There is no 16-bit arithmetic here: such weights are widened as they are read.
DTYPES_ELSEWHERE = {
    **dict.fromkeys(("fp32", "f32", "float", "single", "auto"), "float32"),
    **dict.fromkeys(("fp16", "f16", "half", "float16", "bf16", "bfloat16", "tf32"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
}
#: How many tensors that do not fit an error names.
MAX_NAMED = 40
#: How tensors of quantised weights are called, or end: GPTQ, AWQ, bitsandbytes, FP8, compressed-tensors, MLX.
QUANTISED = (
    *(".qweight", ".qzeros", ".g_idx", ".scales", ".SCB", ".absmax", ".quant_map", "_scale", "_scale_inv"),
    *(".weight_packed", ".weight_shape", ".weight_zero_point"),
)
#: Weights from which on a slow kernel is worth a warning.
LARGE = 10_000_000
#: Inputs or outputs of a linear module beyond which config.json is taken to be damaged.
MAX_WIDTH = 2**22


def checked_dtype(name: Any) -> np.dtype[Any]:
    """The dtype called `name` (or a NumPy dtype), one that this library computes in."""
    try:
        kind = np.dtype(name)
    except TypeError:
        kind = None
    if kind is None or kind.name not in DTYPES:
        hint = did_you_mean(name, DTYPES, DTYPES_ELSEWHERE)
        raise ConfigError(
            f'dtype "{name}" is not supported: expected {" or ".join(DTYPES)}{hint}. Files may hold others'
        )
    return kind


def read_config(folder: str | Path) -> tuple[Any, type[Model]]:
    """The configuration and model class of a checkpoint folder (or of a config.json itself)."""
    return _configured(Path(folder), _config_values(Path(folder)))


def _config_values(path: Path) -> dict[str, Any]:
    """What config.json says; ConfigError for a quantised checkpoint."""
    check_model_folder(path)
    values = read_json(path if path.suffix == ".json" else inside(path, "config.json"))
    mlx = values.get("quantization")
    if mlx:
        bits = f"of {told(mlx['bits'])} bits" if isinstance(mlx, dict) and "bits" in mlx else f"quantised ({told(mlx)})"
        raise ConfigError(
            f"{path}: MLX weights {bits}, which are not read here. Take the repository that they "
            "were made from, or `mlx_lm.convert --dequantize` them"
        )
    quantised = values.get("quantization_config") or values.get("compression_config")
    if quantised:
        method = quantised.get("quant_method", "unnamed") if isinstance(quantised, dict) else "unnamed"
        raise ConfigError(
            f"{path}: the checkpoint is quantised ({shown(str(method))}), which is not supported. Save the model "
            'dequantised (float32, float16 or bfloat16), without "quantization_config" in config.json'
        )
    return values


def _configured(path: Path, values: Mapping[str, Any]) -> tuple[Any, type[Model]]:
    try:
        config_class, model_class = family(values.get("model_type"), values.get("architectures"))
        config = config_class.from_dict(values)
        _check_widths(config, model_class)
        return config, model_class
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_widths(config: Any, model_class: type[Model]) -> None:
    """ConfigError for linear modules (the output matrix aside) that are wider than any model's: heads times channels,
    say, each of which may be in bounds."""
    for module, shape in model_class.target_shapes(config).items():
        if max(shape) > MAX_WIDTH:
            raise ConfigError(f"config.json: {module} would be {shape}: no model is wider than {MAX_WIDTH:,}")


def load_model(
    folder: str | Path,
    dtype: str | None = None,
    device: str = "cpu",
    *,
    hold: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 42,
) -> Model:
    """The model in a Hugging Face folder: config.json and safetensors (f32, f16, bf16, f64; one file or shards).

    `folder` may be the NAME/REPO of a repository in the local Hugging Face cache (`find_model` fetches one).

    Parameters
    ----------
    dtype : "float64" (the oracle's, and the default) or "float32" (for work): what the weights are widened or rounded
        to, and what is computed in
    device : "cpu" or "gpu"
    hold : "bfloat16" keeps matrices in two bytes, as their file has them, and widens them to float32 where they are
        used; what MLPs have inside is computed again on the way back (`model.recompute`): the same results, bit for
        bit, in less memory. The default dtype is float32 then
    labels : names of classes: a bare encoder gets a fresh classification head for them (`model.fresh` names its
        tensors), drawn as transformers draws one, from `seed`

    Raises
    ------
    CheckpointError
        if files or tensors are missing, damaged, misshaped, extra, or hold NaN or infinity; all are named.
    ConfigError
        if the configuration asks for something that is not implemented, or `labels` suit no such model.
    DeviceError
        if the device is not there.

    Warns when the head of another task is left out (a masked language model's, of an encoder), and when the model is
    large and NumPy's OpenBLAS works with a slower kernel than this CPU has (see `machine`).
    """
    folder = find_model(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give the folder that holds config.json")
    kind, place = checked_dtype(working_dtype(dtype, hold, device)), get_device(device)
    config, model_class, tensors, fresh = _read(folder, labels, seed)
    shapes = model_class.tensor_shapes(config)
    _check_tensors(folder, tensors, shapes)
    placed: dict[str, Array] = {}
    held = holdable(model_class, config) - fresh if hold else set()
    for name in shapes:  # one at a time: what a tensor was read from goes before the next is read
        with np.errstate(over="ignore"), unchanged(tensors[name]):  # float64 too large for float32 is refused below
            host = (
                _in_two_bytes(folder, name, tensors[name]) if name in held else np.array(tensors[name], kind, order="C")
            )
        release(tensors.pop(name))
        check_finite(str(folder), name, host)
        placed[name] = place.put(host)
    if place.name == "cpu" and sum(tensor.size for tensor in placed.values()) >= LARGE:
        hint = kernel_hint()
        if hint is not None:
            warnings.warn(hint, stacklevel=2)
    model = model_class(config, placed)
    model.fresh, model.end_tokens = fresh, end_tokens(folder)
    return model


def working_dtype(dtype: str | None, hold: str | None, device: str = "cpu") -> str:
    """What is computed in: `dtype`, or the default for weights held so.

    Raises
    ------
    ConfigError
        if weights cannot be held so, or not on that device, or not with that dtype.
    """
    if hold is None:
        return dtype or "float64"
    if hold != "bfloat16":
        raise ConfigError(f'hold "{hold}" is not supported: expected "bfloat16", or none')
    if device != "cpu":
        raise ConfigError(f'weights are held in bfloat16 on a CPU alone, not on device "{device}"')
    if dtype not in (None, "float32"):
        raise ConfigError(f"weights held in bfloat16 are computed with in float32: dtype {dtype} does not go with that")
    return "float32"


def _in_two_bytes(folder: Path, name: str, host: Array) -> Array:
    """`host` in bfloat16, which must hold it exactly."""
    held = np.empty(host.shape, dtype=BFLOAT16)
    if host.dtype == BFLOAT16:
        held[...] = host
        return held
    for rows in cache_blocks(host):
        held[rows] = host[rows]  # NaN, which differs from itself, is told by its own check
        changed = int(np.count_nonzero(held[rows].astype(np.float64) != host[rows]))
        if changed and np.isfinite(host[rows]).all():
            raise CheckpointError(
                f"{folder}: {name} does not fit into bfloat16 without rounding ({changed} or more of its values): "
                "what is held must give the same results. Load it without hold, or save it in bfloat16 first"
            )
    return held


def _read(
    folder: Path, labels: Sequence[str] | None, seed: int
) -> tuple[Any, type[Model], dict[str, Array], frozenset[str]]:
    """Configuration and class, the tensors by our names, not yet read, and the names of those made anew."""
    values = _config_values(folder)
    config, model_class = _configured(folder, values)
    stored = read_tensors(read_folder(folder))
    bare = not getattr(config, "labels", ())
    if labels is not None:
        config, model_class = classifier(config, labels)
    if issubclass(model_class, Encoder) and bare:
        stored = _encoder_alone(folder, values, model_class, stored)
    tensors = model_class.sanitize(stored, config)
    config, fresh = model_class.fitted(config, tensors), dict[str, Array]()
    if labels is not None and issubclass(model_class, EncoderClassifier):
        deviation = values.get("initializer_range", 0.02)
        usable = isinstance(deviation, float) and 0 < deviation < 1
        fresh = model_class.fresh_head(config, tensors, seed, deviation if usable else 0.02)
    return config, model_class, {**tensors, **fresh}, frozenset(fresh)


def _encoder_alone(
    folder: Path, values: Mapping[str, Any], model_class: type[Encoder], stored: dict[str, Array]
) -> dict[str, Array]:
    """The tensors of a bare encoder, from the file of one with another head, which is named.

    config.json names the other architecture or, as DeBERTa's, none.
    """
    names = values.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else names or "model of no named architecture"
    kept, head = model_class.without_head(stored)
    if not isinstance(architecture, str) or ("For" not in architecture and names):
        return stored  # what does not belong is an error
    if not names and not head:
        return stored
    warnings.warn(
        f"{folder} holds a {architecture}: its encoder is read, and its head ({', '.join(head) or 'none in the file'}) "
        "is left out",
        stacklevel=4,
    )
    return kept


def _check_tensors(folder: Path, tensors: dict[str, Array], shapes: dict[str, tuple[int, ...]]) -> None:
    """Every tensor there, none left over, each of its shape and of a floating dtype: all faults in one message."""
    faults = [f"missing: {name} {shape}" for name, shape in shapes.items() if name not in tensors]
    for name, tensor in tensors.items():
        if name not in shapes:
            faults.append(f"extra: {shown(name)} {tensor.shape}")
        elif tensor.shape != shapes[name]:
            faults.append(f"misshaped: {name} is {tensor.shape}, expected {shapes[name]}")
        elif not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            faults.append(f"not floating point: {name} is {tensor.dtype}")
    if faults:
        quantised = sorted(name for name in tensors.keys() - shapes.keys() if name.endswith(QUANTISED))
        hint = "Is it the right config.json, and a model of that family?"
        if quantised:
            hint = (
                f"{shown(quantised[0])} is a part of quantised weights, which are not supported: take the repository "
                "that they were made from, or save the model dequantised (float32, float16 or bfloat16)"
            )
        more = f"\n  ... and {len(faults) - MAX_NAMED} more" if len(faults) > MAX_NAMED else ""
        raise CheckpointError(
            f"{folder}: {len(faults)} tensor(s) do not fit config.json:\n  "
            + "\n  ".join(faults[:MAX_NAMED])
            + f"{more}\n{hint}"
        )
