"""What may be held against a golden trace: a trace, a PEFT adapter, or the folder of a merged model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array
from tlora_ref.checkpoint import adapter_facts, holds_adapter, load_model, load_peft
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.traces.manifest import Manifest, completed
from tlora_ref.oracle.traces.names import TENSORS
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.transformer import Model


def candidate_of(folder: Path, golden: Trace, model: Model | None) -> Trace:
    """A trace; a PEFT adapter, or a merged model, as the trace of its matrices. `model` is the one before the merge."""
    if folder.is_dir() and not (folder / TENSORS).is_file():
        if holds_adapter(folder):
            return adapter_as_trace(load_peft(folder), golden, adapter_facts(folder))
        if (folder / "config.json").is_file():
            return merged_as_trace(load_model(folder), golden, model)
    return Trace(folder)


def adapter_as_trace(adapter: Adapter, golden: Trace, facts: dict[str, Any]) -> Trace:
    """What a bare adapter says: ranks, scales, A, and B after the last step that the golden trace has.

    One whose B is zero in every module is as initialised: it says nothing of training.

    facts : what `tlora.json` notes of the run: its `settings`, and `samples_sha256`
    """
    tensors: dict[str, Array] = {}
    trained = any(B.any() for B in adapter.B.values())
    last = max(golden.numbered("train", "B"), default=0) if trained else 0
    for module in adapter.A:
        if module not in golden.shapes:
            raise CheckpointError(f"the adapter adapts {module}, which the golden trace does not list")
    for module in golden.shapes:
        rank = adapter.A[module].shape[0] if module in adapter.A else 0
        tensors[f"rank/{module}"] = np.array(rank)
        if rank:
            tensors[f"A/{module}"] = adapter.A[module]
            tensors[f"scale/{module}"] = np.array(adapter.scale[module])
            if last:
                tensors[f"train/{last}/B/{module}"] = adapter.B[module]
    return Trace.of(_unrecorded(golden, "float32", facts), tensors)


def merged_as_trace(merged: Model, golden: Trace, model: Model | None) -> Trace:
    """The merged weights of a whole model, in the precision that its file shows.

    CheckpointError where it is another model: a module is missing or of another shape, or, `model` being the one
    before the merge, a tensor that no adapter touches is another.
    """
    weights = {}
    for module, shape in golden.shapes.items():
        try:
            weights[f"merged/{module}"] = merged.weight(module)
        except ConfigError as error:
            raise CheckpointError(f"the merged model is of another architecture: {error}") from error
        if weights[f"merged/{module}"].shape != shape:
            raise CheckpointError(
                f"{module} is {merged.weight(module).shape} in the merged model, {shape} in the trace"
            )
    ties = merged.ties(merged.config)
    targets = {ties.get(f"{module}.weight", f"{module}.weight") for module in golden.shapes}
    dtype = next((name for name in ("bfloat16", "float16") if _holds(Precision.of(name), merged)), "float32")
    for name, tensor in ({} if model is None else model.tensors).items():
        unit = Precision.of(dtype).storage
        if name not in targets and not np.allclose(merged.tensors.get(name, np.nan), tensor, rtol=unit, atol=0.0):
            raise CheckpointError(
                f"{name} is another in the merged model than in the checkpoint: no adapter changes it"
            )
    return Trace.of(_unrecorded(golden, dtype, {}), weights, "merged")


def _holds(precision: Precision, model: Model) -> bool:
    """Whether all of the model's numbers are ones of this storage."""
    with np.errstate(over="ignore"):
        return all(np.array_equal(precision.rounded(x), x) for x in model.tensors.values())


def _unrecorded(golden: Trace, dtype: str, facts: dict[str, Any]) -> Manifest:
    """The manifest of a candidate that is no trace: what decides its training is known by `facts` alone."""
    settings, digest = facts.get("settings"), facts.get("samples_sha256")
    try:
        completed(settings or {})
    except (AttributeError, ConfigError, TypeError, ValueError):  # facts are anyone's: these are no settings
        settings = None
    data = {"samples_sha256": digest} if isinstance(digest, str) else {}
    return replace(golden.manifest, dtype=dtype, noise={}, stages=[], samples=0, train=settings or {}, data=data)
