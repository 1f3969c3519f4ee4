"""Adapters in PEFT's format (as PEFT 0.21 reads and writes it), out and in.

A file holds A and B of every module; `adapter_config.json` holds the rank and alpha of every module. What PEFT cannot
say (that A is frozen, the profile, the sensitivities) goes to `tlora.json` beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter, Plan
from tlora_ref.backend import Array, get_device, to_numpy
from tlora_ref.checkpoint.load import checked_dtype
from tlora_ref.checkpoint.reader import Entry, inside, read_header, read_json, read_tensor
from tlora_ref.checkpoint.save import file_dtype
from tlora_ref.checkpoint.write import new_folder, write_json, write_tensors
from tlora_ref.errors import CheckpointError, ConfigError, OutputError

WEIGHTS, CONFIG, EXTRA = "adapter_model.safetensors", "adapter_config.json", "tlora.json"
PREFIX = "base_model.model."
FORMAT_VERSION = 1

#: PEFT features that change what an adapter computes, with the values that mean "off".
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "layer_replication": (),
    "trainable_token_indices": (),
    "target_parameters": ([],),
    "alora_invocation_tokens": (),
    "use_qalora": (False,),
    "megatron_config": (),
    "exclude_modules": (),
    "layers_to_transform": (),
    "arrow_config": (),
}


def save_peft(
    adapter: Adapter,
    folder: str | Path,
    *,
    dtype: str | None = None,
    base_model: str | None = None,
    task_type: str | None = "CAUSAL_LM",
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `adapter` as a folder that `peft.PeftModel.from_pretrained` loads, read it again and compare.

    Parameters
    ----------
    dtype : float32, float64, float16 or bfloat16; the adapter's own by default
    base_model : name or path that PEFT shows as `base_model_name_or_path`
    task_type : PEFT's name for what the model does
    facts : more for `tlora.json` (seeds, data digests, the command)

    Raises
    ------
    ConfigError
        if the adapter has no module.
    OutputError
        if the folder exists or cannot be written, or does not read back as it was written.
    """
    if not adapter.A:
        raise ConfigError("the adapter has no module of rank 1 or more: there is nothing to save")
    kind = None if dtype is None else file_dtype(dtype)
    tensors: dict[str, Array] = {}
    for module in adapter.modules:
        tensors[f"{PREFIX}{module}.lora_A.weight"] = to_numpy(adapter.A[module])
        tensors[f"{PREFIX}{module}.lora_B.weight"] = to_numpy(adapter.B[module])
    for name, tensor in adapter.saved.items():
        tensors[f"{PREFIX}{name}"] = to_numpy(tensor)
    if kind is not None:
        tensors = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    with new_folder(folder, overwrite=overwrite) as beside:
        write_tensors(tensors, beside / WEIGHTS)
        write_json(_peft_config(adapter, base_model, task_type), beside / CONFIG)
        write_json(_tlora_facts(adapter, facts), beside / EXTRA)
        _compare(adapter, tensors, beside)


def _peft_config(adapter: Adapter, base_model: str | None, task_type: str | None) -> dict[str, Any]:
    """adapter_config.json: every module by its full path, its rank and alpha in the two patterns.

    PEFT takes the first pattern that matches the end of a module's path; full paths match nothing but themselves.
    """
    plan = adapter.plan
    r_init = plan.r_init if plan is not None else max(A.shape[0] for A in adapter.A.values())
    ranks = {m: int(A.shape[0]) for m, A in adapter.A.items()}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": r_init,
        "lora_alpha": r_init,
        "rank_pattern": ranks,
        "alpha_pattern": {m: ranks[m] * adapter.scale[m] for m in ranks},
        "target_modules": adapter.modules,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.saved}) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _tlora_facts(adapter: Adapter, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "format": "tlora_ref.adapter",
        "version": FORMAT_VERSION,
        "init": adapter.init,
        "seed": adapter.seed,
        "frozen_A": adapter.frozen_A,
        "scale": adapter.scale,
        "plan": None if adapter.plan is None else adapter.plan.to_dict(),
        "facts": dict(facts or {}),
    }


def _compare(adapter: Adapter, tensors: Mapping[str, Array], folder: Path) -> None:
    """What was written reads back bit for bit, module for module, scale for scale."""
    again = load_peft(folder, dtype="float64")
    for module in adapter.modules:
        for matrices, letter in ((again.A, "A"), (again.B, "B")):
            written = tensors[f"{PREFIX}{module}.lora_{letter}.weight"].astype(np.float64)
            if not np.array_equal(matrices[module], written):
                raise OutputError(f"{folder}: {module}.lora_{letter} does not read back as it was written")
        if abs(again.scale[module] - adapter.scale[module]) > 1e-12 * abs(adapter.scale[module]):
            raise OutputError(f"{folder}: the scale of {module} does not read back as it was written")
    if again.modules != adapter.modules or set(again.saved) != set(adapter.saved):
        raise OutputError(f"{folder}: the adapter's modules do not read back as they were written")


def load_peft(folder: str | Path, dtype: str = "float64", device: str = "cpu") -> Adapter:
    """An adapter from a PEFT folder, ours or another's.

    Parameters
    ----------
    dtype, device : of the matrices, to agree with the model they will be attached to

    Raises
    ------
    CheckpointError
        if a file is missing or damaged, a pair is incomplete or misshaped, or a tensor belongs to no module.
    ConfigError
        if it uses a PEFT feature that this library does not implement; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give the folder that holds {CONFIG}")
    config = _checked_config(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder}: there is no {WEIGHTS}. An adapter_model.bin is a pickle and is never read: save it again with "
            "safe_serialization=True"
        )
    entries = read_header(inside(folder, WEIGHTS))[0]
    pairs, saved = _pairs(folder, entries)
    put, kind = get_device(device).put, checked_dtype(dtype)

    def placed(entry: Entry) -> Array:
        return put(np.asarray(read_tensor(entry)).astype(kind, order="C"))

    extra = read_json(folder / EXTRA) if (folder / EXTRA).is_file() else {}
    order = [m for m in config.get("target_modules") or [] if m in pairs] if _names(config) else []
    modules = [*order, *(m for m in pairs if m not in set(order))]
    scales = {m: _scale(folder, config, m, pairs[m]["A"].shape[0]) for m in modules}
    exact = extra.get("scale") or {}
    plan = extra.get("plan")
    return Adapter(
        A={m: placed(pairs[m]["A"]) for m in modules},
        B={m: placed(pairs[m]["B"]) for m in modules},
        # alpha / rank loses the last bit of the scale; tlora.json has it whole, used only where the two agree.
        scale={m: exact[m] if abs(exact.get(m, np.inf) - s) <= 1e-12 * abs(s) else s for m, s in scales.items()},
        plan=None if plan is None else Plan.from_dict(plan),
        init=str(extra.get("init", "unknown")),
        seed=int(extra.get("seed", 0)),
        frozen_A=bool(extra.get("frozen_A", False)),
        saved={name: placed(entry) for name, entry in saved.items()},
    )


def _names(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("target_modules"), list)


def _checked_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, with every feature that is not implemented refused by name."""
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{folder / CONFIG}: peft_type is {config.get('peft_type')!r}, only 'LORA' is supported")
    for key, off in UNSUPPORTED.items():
        if config.get(key) is not None and config[key] not in off:
            raise ConfigError(f'{folder / CONFIG}: "{key}" is {config[key]!r}: that PEFT feature is not implemented')
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise ConfigError(f'{folder / CONFIG}: "{key}" is {config[key]!r:.60}, expected an object')
    return config


def _pairs(folder: Path, entries: Mapping[str, Entry]) -> tuple[dict[str, dict[str, Entry]], dict[str, Entry]]:
    """{module: {"A": ..., "B": ...}} and the whole tensors saved beside them."""
    pairs: dict[str, dict[str, Entry]] = {}
    saved: dict[str, Entry] = {}
    for name, entry in entries.items():
        path = name.removeprefix(PREFIX)
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", path)
        if match is not None:
            pairs.setdefault(match[1], {})[match[2]] = entry
        elif ".lora_" in path or not name.startswith(PREFIX):
            raise CheckpointError(f"{folder}: tensor {name} is of a kind that is not implemented")
        else:
            saved[path] = entry
    for module, pair in pairs.items():
        shapes = {letter: entry.shape for letter, entry in pair.items()}
        if set(shapes) != {"A", "B"} or len(shapes["A"]) != 2 or shapes["A"][0] != shapes["B"][-1]:
            raise CheckpointError(
                f"{folder}: {module} has {shapes}: expected lora_A (r, d_in) and lora_B (d_out, r). Save the adapter "
                "again"
            )
    if not pairs:
        raise CheckpointError(f"{folder}: {WEIGHTS} holds no lora_A and lora_B tensors")
    return pairs, saved


def _scale(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank (or alpha / sqrt(rank) under rsLoRA), as PEFT resolves its patterns."""
    r = _by_pattern(config.get("rank_pattern") or {}, module, config.get("r"))
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha"))
    if r != rank:
        raise CheckpointError(f"{folder}: {module} has a lora_A of rank {rank}, but {CONFIG} says {r}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{folder}: {CONFIG} gives {module} the alpha {alpha!r}, expected a number")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key that matches the end of the path, as a regular expression (PEFT's rule)."""
    for key, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise ConfigError(f'{CONFIG}: the pattern "{key}" is no valid regular expression: {error}') from None
    return default


def save_universal(
    adapter: Adapter, folder: str | Path, *, base_model: str | None = None, overwrite: bool = False
) -> None:
    """An export for consumers that know one rank and one alpha: every module zero-padded to the largest rank, the
    scale folded into B, alpha = rank so that theirs is 1. The product scale * B A is unchanged."""
    r = max(A.shape[0] for A in adapter.A.values())

    def padded(x: Array, axis: int) -> Array:
        width = [(0, 0), (0, 0)]
        width[axis] = (0, r - x.shape[axis])
        return np.pad(to_numpy(x), width)

    uniform = Adapter(
        A={m: padded(A, 0) for m, A in adapter.A.items()},
        B={m: padded(B * adapter.scale[m], 1) for m, B in adapter.B.items()},
        scale=dict.fromkeys(adapter.A, 1.0),
        init=adapter.init,
        seed=adapter.seed,
        frozen_A=adapter.frozen_A,
        saved=adapter.saved,
    )
    save_peft(uniform, folder, base_model=base_model, overwrite=overwrite)
