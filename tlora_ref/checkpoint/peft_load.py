"""Adapters in PEFT's format, in: ours or another's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter, Plan
from tlora_ref.backend import Array, get_device
from tlora_ref.checkpoint.load import checked_dtype
from tlora_ref.checkpoint.peft_config import (
    CONFIG,
    FACTS,
    PREFIX,
    WEIGHTS,
    is_saved_whole,
    is_target,
    read_peft_config,
    scale_of,
)
from tlora_ref.checkpoint.reader import check_finite, inside, read_header, read_json, read_tensors, shown
from tlora_ref.errors import CheckpointError, TLoRAError


def load_peft(folder: str | Path, dtype: str = "float64", device: str = "cpu") -> Adapter:
    """An adapter from a PEFT folder: `adapter_config.json`, `adapter_model.safetensors` and, if there, `tlora.json`.

    Parameters
    ----------
    dtype, device : of the matrices, to agree with the model they will be attached to

    Raises
    ------
    CheckpointError
        if a file is missing or damaged, a pair is incomplete or misshaped, a tensor belongs to no module, or a value
        is not finite.
    ConfigError
        if it uses a PEFT feature that this library does not implement; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give the folder that holds {CONFIG}")
    put, kind = get_device(device).put, checked_dtype(dtype)
    config = read_peft_config(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder}: there is no {WEIGHTS}. An adapter_model.bin is a pickle and is never read: load it with PEFT "
            "and save it again with safe_serialization=True"
        )
    tensors = read_tensors(read_header(inside(folder, WEIGHTS))[0])
    pairs, saved = _sorted_out(folder, config, tensors)

    def placed(name: str, tensor: Array) -> Array:
        with np.errstate(over="ignore"):
            host = np.array(tensor, dtype=kind, order="C")
        check_finite(str(folder / WEIGHTS), name, host)
        return put(host)

    modules = _in_order(config, pairs)
    scales = {m: scale_of(folder, config, m, pairs[m]["A"].shape[0]) for m in modules}
    return Adapter(
        A={m: placed(f"{m}.lora_A", pairs[m]["A"]) for m in modules},
        B={m: placed(f"{m}.lora_B", pairs[m]["B"]) for m in modules},
        saved={name: placed(name, tensor) for name, tensor in saved.items()},
        task_type=config.get("task_type"),
        **_facts(folder, {m: pairs[m]["A"].shape[0] for m in modules}, scales),
    )


def _in_order(config: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[str]:
    """The modules in the order of `target_modules`, which is model order in what we write; then in the file's."""
    targets = config["target_modules"]
    named = [m for m in targets if m in pairs] if isinstance(targets, list) else []
    return list(dict.fromkeys([*named, *pairs]))


def _sorted_out(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array]
) -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
    """{module: {"A": ..., "B": ...}}, and the whole tensors of `modules_to_save`; every tensor must be one of those."""
    pairs: dict[str, dict[str, Array]] = {}
    saved: dict[str, Array] = {}
    for name, tensor in tensors.items():
        path = name.removeprefix(PREFIX)
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", path)
        if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
            raise CheckpointError(f"{folder}: tensor {shown(name)} is {tensor.dtype}, expected floating point")
        if match is not None and is_target(config, match[1]):
            pairs.setdefault(match[1], {})[match[2]] = tensor
        elif match is None and name.startswith(PREFIX) and ".lora_" not in path and is_saved_whole(config, path):
            saved[path] = tensor
        else:
            raise CheckpointError(
                f"{folder}: tensor {shown(name)} belongs to nothing that {CONFIG} names in target_modules or "
                f"modules_to_save; expected {PREFIX}<module>.lora_A.weight and .lora_B.weight"
            )
    if not pairs:
        raise CheckpointError(f"{folder}: {WEIGHTS} holds no lora_A and lora_B tensors. Save the adapter again")
    for module, pair in pairs.items():
        _check_pair(folder, module, {letter: tensor.shape for letter, tensor in pair.items()})
    return pairs, saved


def _check_pair(folder: Path, module: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for letter in "AB":
        if letter not in shapes:
            raise CheckpointError(
                f"{folder}: {module} has no lora_{letter}: a pair is expected. Save the adapter again"
            )
    A, B = shapes["A"], shapes["B"]
    if len(A) != 2 or len(B) != 2 or A[0] != B[1] or 0 in A + B:
        raise CheckpointError(
            f"{folder}: {module} has lora_A {A} and lora_B {B}, expected (r, d_in) and (d_out, r). Save the adapter "
            "again"
        )


def _facts(folder: Path, ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """What `tlora.json` knows beyond PEFT's files (defaults without it), refused where the two contradict."""
    path = folder / FACTS
    if not path.is_file():
        return {"scale": dict(scales), "init": "unknown", "seed": 0, "frozen_A": False}
    values = read_json(path)
    mend = f"Copy {FACTS} again, or delete it if the adapter was changed by another tool"
    try:
        exact = {m: float(s) for m, s in values["scale"].items()}
        plan = None if values["plan"] is None else Plan.from_dict(values["plan"])
        planned = {} if plan is None else {m: int(r) for m, r in plan.rank.items() if r > 0}
        known = {"init": str(values["init"]), "seed": int(values["seed"]), "frozen_A": bool(values["frozen_A"])}
        known |= {"untrained": set(map(str, values["untrained"])), "model": values["model"]}
    except (TLoRAError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not what this library writes ({type(error).__name__}: {error}). {mend}"
        ) from error
    for module, rank in ranks.items():
        # alpha / rank loses the last bit of the scale; tlora.json has it whole.
        if not abs(exact.get(module, np.inf) - scales[module]) <= 1e-12 * abs(scales[module]):
            raise CheckpointError(
                f"{path}: the scale of {module} is {exact.get(module)}, but {CONFIG} makes it {scales[module]}. {mend}"
            )
        if plan is not None and planned.get(module) != rank:
            raise CheckpointError(f"{path}: the plan's rank of {module} is {planned.get(module)}, not {rank}. {mend}")
    if set(exact) != set(ranks):
        odd = sorted(set(exact) ^ set(ranks))
        raise CheckpointError(f"{path} and {WEIGHTS} hold different modules: {', '.join(odd[:5])}. {mend}")
    return {"scale": {m: exact[m] for m in ranks}, "plan": plan, **known}
