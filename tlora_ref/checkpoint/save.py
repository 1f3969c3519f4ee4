"""From a model to a Hugging Face folder that transformers loads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tlora_ref.backend import Array, to_numpy
from tlora_ref.checkpoint.reader import inside, read_json
from tlora_ref.checkpoint.write import new_folder, write_json, write_tensors
from tlora_ref.errors import ConfigError, NumericsError, did_you_mean
from tlora_ref.transformer import Model

#: What a folder may be written in.
FILE_DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: What others call them.
FILE_DTYPES_ELSEWHERE = {
    **dict.fromkeys(("fp32", "f32", "float", "single"), "float32"),
    **dict.fromkeys(("fp64", "f64", "double"), "float64"),
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
    "bf16": "bfloat16",
}
#: The folder of further chat templates.
TEMPLATES = "additional_chat_templates"
#: Files that go along from the folder a model came from.
COMPANIONS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json"),
    *("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md"),
)


def file_dtype(name: str) -> np.dtype[Any]:
    """The dtype called `name`, one that a checkpoint file may hold."""
    if name not in FILE_DTYPES:
        hint = did_you_mean(name, FILE_DTYPES, FILE_DTYPES_ELSEWHERE)
        raise ConfigError(f'dtype "{name}" cannot be written: expected one of {", ".join(FILE_DTYPES)}{hint}')
    return FILE_DTYPES[name]


def save_model(
    model: Model,
    folder: str | Path,
    dtype: str = "float32",
    *,
    source: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write `model` (without an attached adapter: merge it first) as config.json and model.safetensors.

    Parameters
    ----------
    dtype : float32, float64, float16 or bfloat16; see `rounding_report` before choosing 16 bits
    source : the folder that the model came from: its tokenizer and generation files go along, and its config.json but
        for what is otherwise now

    Raises
    ------
    OutputError
        if the folder exists or cannot be written; nothing is left half-written.
    """
    kind = file_dtype(dtype)
    if model.adapter is not None:
        raise ConfigError("save_model writes plain weights: merge the adapter first, or detach it")
    host = {name: rounded(name, to_numpy(x), kind) for name, x in model.tensors.items()}
    with new_folder(folder, overwrite=overwrite) as beside:
        write_tensors(type(model).unsanitize(host, model.config), beside / "model.safetensors")
        write_json(_config(model, dtype, source), beside / "config.json")
        for name in COMPANIONS if source is not None else ():
            companion = inside(Path(str(source)), name)
            if companion.is_file():
                shutil.copyfile(companion, beside / name)
        _copy_templates(source, beside)


def _copy_templates(source: str | Path | None, folder: Path) -> None:
    """The chat templates beside the default one go along."""
    templates = None if source is None else Path(source) / TEMPLATES
    if templates is None or not templates.is_dir():
        return
    (folder / TEMPLATES).mkdir()
    for file in sorted(inside(Path(str(source)), TEMPLATES).glob("*.jinja")):
        shutil.copyfile(inside(templates, file.name), folder / TEMPLATES / file.name)


def _config(model: Model, dtype: str, source: str | Path | None) -> dict[str, Any]:
    """What config.json says: all that the source's says (dropout, say, which this library does not read), but for what
    the model has otherwise."""
    now = model.config.to_dict()
    if source is None or not (Path(source) / "config.json").is_file():
        return {**now, "torch_dtype": dtype}
    values = read_json(inside(Path(source), "config.json"))
    if values.get("model_type") != now["model_type"]:
        return {**now, "torch_dtype": dtype}
    before = type(model.config).from_dict(values).to_dict()
    changed = {key: value for key, value in now.items() if key not in before or before[key] != value}
    named = [key for key in ("dtype", "torch_dtype") if key in values] or ["torch_dtype"]
    return {**values, **changed, "architectures": now["architectures"], **dict.fromkeys(named, dtype)}


def rounded(name: str, x: Array, kind: np.dtype[Any]) -> Array:
    """`x` in the dtype `kind`; a NumericsError if a value is not finite, or no longer is."""
    with np.errstate(over="ignore"):
        y = x.astype(kind)
    if not np.isfinite(y).all():
        if np.isfinite(x).all():
            raise NumericsError(
                f"{name} does not fit {kind}: it holds {np.abs(x).max():.3g}. Write bfloat16 or float32"
            )
        bad = x.size - int(np.count_nonzero(np.isfinite(x)))
        raise NumericsError(f"{name} holds {bad} value(s) that are NaN or infinite (of {x.size}): nothing was written")
    return y


def rounding_report(base: Model, merged: Model, dtype: str, modules: Iterable[str] | None = None) -> dict[str, float]:
    """How much of the update W' - W a file of `dtype` rounds away: {module: ||round(W') - W'|| / ||W' - W||}.

    Near or above 1 the update is smaller than the rounding: keep float32, or keep the adapter apart. A module without
    an update has 0.

    Parameters
    ----------
    modules : paths of linear modules; by default the family's own targets
    """
    kind, report = file_dtype(dtype), {}
    for module in base.shapes() if modules is None else modules:
        before, after = (to_numpy(m.weight(module)).astype(np.float64) for m in (base, merged))
        update = float(np.linalg.norm(after - before))
        lost = float(np.linalg.norm(rounded(module, after, kind).astype(np.float64) - after))
        report[module] = lost / update if update > 0 else 0.0
    return report
