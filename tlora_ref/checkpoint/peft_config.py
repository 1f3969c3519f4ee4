"""`adapter_config.json`: what PEFT 0.21 means by it, and which of its features are not implemented here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlora_ref.adapter import Adapter
from tlora_ref.checkpoint.peft_claims import CONFIG, matches
from tlora_ref.checkpoint.reader import inside, read_json, shown
from tlora_ref.errors import CheckpointError, ConfigError

WEIGHTS, FACTS = "adapter_model.safetensors", "tlora.json"
PREFIX = "base_model.model."
#: What PEFT adds to `modules_to_save` of its own accord for sequence classification.
HEADS = ("classifier", "score")

#: PEFT features that change what an adapter computes, with the values (beside null) that mean "off".
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "layer_replication": (),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "megatron_config": (),
    "arrow_config": (),
    "kasa_config": (),
    "monteclora_config": (),
    "velora_config": (),
    # Any other initialisation changes the base model's weights when PEFT loads the adapter.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


#: What else PEFT 0.21 writes: understood here, or without effect on what a saved adapter computes.
KNOWN = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
        *("use_rslora", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        *("runtime_config", "ensure_weight_tying"),
    )
)


def peft_config(adapter: Adapter, base_model: str | None) -> dict[str, Any]:
    """What `adapter_config.json` says of `adapter`: every module by its full path, its rank and alpha in the patterns.

    PEFT takes the first pattern that matches the end of a module's path. A full path matches itself, and a longer path
    that ends with it: longer ones come first. Where all modules have one rank and scale 1, no pattern is needed.
    """
    ranks = {m: int(A.shape[0]) for m, A in adapter.A.items()}
    paths = sorted(ranks, key=lambda m: -m.count("."))  # stable: model order among equals
    r = max(ranks.values()) if adapter.plan is None else adapter.plan.r_init
    uniform = all(ranks[m] == r and adapter.scale[m] == 1.0 for m in ranks)
    return {
        "peft_type": "LORA",
        "task_type": adapter.task_type,
        "base_model_name_or_path": base_model,
        "r": r,
        "lora_alpha": r,
        "rank_pattern": {} if uniform else {m: ranks[m] for m in paths},
        "alpha_pattern": {} if uniform else {m: ranks[m] * adapter.scale[m] for m in paths},
        "target_modules": adapter.modules,
        "modules_to_save": sorted({_module_to_save(name) for name in kept_whole(adapter)}) or None,
        # A tied table that is trained is trained in all its uses; PEFT goes on so.
        **({"ensure_weight_tying": True} if adapter.tied and adapter.task_type == "CAUSAL_LM" else {}),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def kept_whole(adapter: Adapter) -> dict[str, str]:
    """{tensor in the file: the one in `saved` that it is}: a tied table is written under each of its names."""
    own = {name: name for name in adapter.saved if name not in adapter.base}
    return own | {other: name for name, others in adapter.tied.items() for other in others}


def _module_to_save(tensor: str) -> str:
    """The module that PEFT is told to load whole: the tensor's own, or the head that PEFT takes whole by itself."""
    top = tensor.partition(".")[0]
    return top if top in HEADS else tensor.rpartition(".")[0]


def read_peft_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, with every feature that is not implemented refused by name."""
    path = inside(folder, CONFIG)
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise ConfigError(f"{path}: peft_type is {config.get('peft_type')!r:.60}, only 'LORA' is supported")
    for key, off in UNSUPPORTED.items():
        value = config.get(key)
        if value is not None and value not in off:
            raise ConfigError(
                f'{path}: "{key}" is {value!r:.60}: that PEFT feature is not implemented. Merge the adapter into its '
                "model with PEFT, and load the merged model"
            )
    unknown = sorted(key for key, value in config.items() if key not in (*KNOWN, *UNSUPPORTED) and value)
    if unknown:
        warnings.warn(
            f"{path}: {', '.join(map(shown, unknown))}: unknown to PEFT 0.21, which leaves them out, as is done here. "
            "If a newer PEFT wrote them, they may change what the adapter computes: merge it with that PEFT",
            stacklevel=3,
        )
    for key in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(key) or {}, dict):
            raise CheckpointError(f'{path}: "{key}" is {config[key]!r:.60}, expected an object')
    _check_names(path, config)
    return config


def _check_names(path: Path, config: Mapping[str, Any]) -> None:
    """What names modules and layers is of the right kind."""
    for key, required in (("target_modules", True), ("exclude_modules", False)):
        value = config.get(key)
        if not isinstance(value, str) and not _names(value) and (required or value is not None):
            raise CheckpointError(f'{path}: "{key}" is {value!r:.60}, expected names or a regular expression')
    whole, patterns, layers = (config.get(key) for key in ("modules_to_save", "layers_pattern", "layers_to_transform"))
    if whole is not None and not _names(whole):
        raise CheckpointError(f'{path}: "modules_to_save" is {whole!r:.60}, expected a list of names')
    if patterns is not None and not isinstance(patterns, str) and not _names(patterns):
        raise CheckpointError(f'{path}: "layers_pattern" is {patterns!r:.60}, expected names')
    numbers = layers if isinstance(layers, list) else [layers]
    if layers is not None and not all(isinstance(x, int) and not isinstance(x, bool) for x in numbers):
        raise CheckpointError(f'{path}: "layers_to_transform" is {layers!r:.60}, expected numbers of layers')


def _names(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first key that matches the end of the path, as a regular expression (PEFT's rule)."""
    for key, value in patterns.items():
        if matches(rf"(.*\.)?({key})$", module, re.match):
            return value
    return default


def scale_of(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank (or alpha / sqrt(rank) under rsLoRA) of a module whose lora_A has `rank` rows."""
    r = by_pattern(config.get("rank_pattern") or {}, module, config.get("r"))
    alpha = by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha"))
    if r != rank:
        raise CheckpointError(
            f"{folder}: {module} has a lora_A of rank {rank}, but {CONFIG} says {r!r:.40}. Config and weights are of "
            "different adapters: copy both again"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < float("inf"):
        raise CheckpointError(f"{folder}: {CONFIG} gives {module} the alpha {alpha!r:.40}, expected a number")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
