"""Adapters in PEFT's format (as PEFT 0.21 reads it), out.

A file holds A and B of every module; `adapter_config.json` holds the rank and alpha of every module. What PEFT cannot
say (that A is frozen, the profile, the sensitivities) goes to `tlora.json` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array, to_numpy
from tlora_ref.checkpoint.hub import repository_of
from tlora_ref.checkpoint.peft_claims import CONFIG
from tlora_ref.checkpoint.peft_config import FACTS, PREFIX, WEIGHTS, kept_whole, peft_config
from tlora_ref.checkpoint.peft_load import load_peft
from tlora_ref.checkpoint.save import file_dtype, rounded
from tlora_ref.checkpoint.write import new_folder, write_json, write_tensors
from tlora_ref.errors import ConfigError, OutputError
from tlora_ref.provenance import provenance

FORMAT_VERSION = 3


def save_peft(
    adapter: Adapter,
    folder: str | Path,
    *,
    dtype: str | None = None,
    base_model: str | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `adapter` as a folder that `peft.PeftModel.from_pretrained` loads, read it again and compare.

    Parameters
    ----------
    dtype : float32, float64, float16 or bfloat16; the adapter's own by default
    base_model : name or path that PEFT shows as `base_model_name_or_path`
    facts : more for `tlora.json` (seeds, data digests, the command)

    Raises
    ------
    ConfigError
        if the adapter has no module.
    NumericsError
        if a matrix is not finite, or not in `dtype`.
    OutputError
        if the folder exists or cannot be written, or does not read back as it was written.
    """
    if not adapter.A:
        raise ConfigError("the adapter has no module of rank 1 or more: there is nothing to save")
    tensors = _tensors(adapter)
    for name, tensor in tensors.items():
        tensors[name] = rounded(name, tensor, tensor.dtype if dtype is None else file_dtype(dtype))
    with new_folder(folder, overwrite=overwrite) as beside:
        write_tensors(tensors, beside / WEIGHTS)
        named = None if base_model is None else repository_of(base_model)
        write_json(peft_config(adapter, named), beside / CONFIG)
        write_json(_facts(adapter, facts), beside / FACTS)
        _compare(adapter, tensors, beside)


def _tensors(adapter: Adapter) -> dict[str, Array]:
    """The file's tensors by name."""
    tensors: dict[str, Array] = {}
    for module in adapter.modules:
        for letter, matrices in (("A", adapter.A), ("B", adapter.B)):
            place = f"lora_embedding_{letter}" if module in adapter.tables else f"lora_{letter}.weight"
            tensors[f"{PREFIX}{module}.{place}"] = to_numpy(matrices[module])
    for name, held in kept_whole(adapter).items():
        tensors[f"{PREFIX}{name}"] = to_numpy(adapter.saved[held])
    for name in adapter.base:
        module, _, part = name.rpartition(".")
        place = f"{module}.base_layer.{part}" if module in adapter.A else name
        tensors[f"{PREFIX}{place}"] = to_numpy(adapter.saved[name])
    return tensors


def save_universal(
    adapter: Adapter,
    folder: str | Path,
    *,
    dtype: str | None = None,
    base_model: str | None = None,
    overwrite: bool = False,
) -> None:
    """An export for consumers that know one rank and one alpha: every module zero-padded to the largest rank, the
    scale folded into B, alpha = rank so that theirs is 1. The product scale * B A is unchanged.

    Parameters, errors: as `save_peft`.
    """
    r = max((A.shape[0] for A in adapter.A.values()), default=0)

    def padded(x: Array, axis: int) -> Array:
        width = [(0, 0), (0, 0)]
        width[axis] = (0, r - x.shape[axis])
        return np.pad(to_numpy(x), width)

    uniform = replace(
        adapter,
        A={m: padded(A, 0) for m, A in adapter.A.items()},  # (r_i, d_in) -> (r, d_in)
        B={m: padded(B * adapter.scale[m], 1) for m, B in adapter.B.items()},  # (d_out, r_i) -> (d_out, r)
        scale=dict.fromkeys(adapter.A, 1.0),
        plan=None,  # whose ranks these are no more
    )
    save_peft(uniform, folder, dtype=dtype, base_model=base_model, overwrite=overwrite)


def _facts(adapter: Adapter, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What PEFT's files have no place for."""
    plan = adapter.plan
    return {
        "format": "tlora_ref.adapter",
        "version": FORMAT_VERSION,
        "versions": provenance(),
        "profile": None if plan is None else plan.profile,
        "init": adapter.init,
        "seed": adapter.seed,
        "frozen_A": adapter.frozen_A,  # PEFT has no word for it: it would train A too
        "untrained": sorted(adapter.untrained),  # nor for a head that goes along as it was
        "labels": list(adapter.labels),  # nor for the classes' names
        "tied": {name: list(others) for name, others in adapter.tied.items()},
        "model": adapter.model,
        "scale": {m: float(adapter.scale[m]) for m in adapter.modules},
        "plan": None if plan is None else plan.to_dict(),
        "facts": dict(facts or {}),
    }


def _compare(adapter: Adapter, tensors: Mapping[str, Array], folder: Path) -> None:
    """What was written reads back bit for bit, module for module, scale for scale."""
    again = load_peft(folder, dtype="float64")
    found = _tensors(again)
    if again.modules != adapter.modules or set(found) != set(tensors):
        raise OutputError(f"{folder}: the adapter's modules do not read back as they were written")
    for module in adapter.modules:
        if again.scale[module] != adapter.scale[module]:
            raise OutputError(f"{folder}: the scale of {module} does not read back as it was written")
    for name, written in tensors.items():
        if not np.array_equal(found[name], written.astype(np.float64)):
            raise OutputError(f"{folder}: {name.removeprefix(PREFIX)} does not read back as it was written")
