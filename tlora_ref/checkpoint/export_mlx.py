"""Adapters for mlx-lm, whose `--adapter-path` takes the folder.

mlx-lm computes x W^T + scale (x lora_a) lora_b with one rank and one scale for all modules: lora_a is A^T and lora_b
B^T, zero-padded to the largest rank, each module's scale inside lora_b, and theirs is 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.backend import to_numpy
from tlora_ref.checkpoint.write import write_json, write_tensors
from tlora_ref.errors import ConfigError

#: Families whose modules mlx-lm calls as transformers does.
FAMILIES = (
    *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"),
    "starcoder2",
)


def write_mlx(adapter: Adapter, config: Any, folder: Path) -> None:
    """`adapters.safetensors` and `adapter_config.json`, in float32.

    Raises
    ------
    ConfigError
        for a family that mlx-lm does not have, or calls otherwise.
    """
    if config.model_type not in FAMILIES:
        raise ConfigError(f"export --to mlx: not for {config.model_type} models, but for {', '.join(FAMILIES)}")
    r = max(len(A) for A in adapter.A.values())
    tensors = {}
    for module in adapter.modules:
        A, B = (to_numpy(matrices[module]).astype(np.float32) for matrices in (adapter.A, adapter.B))
        more = (0, r - len(A))
        tensors[f"{module}.lora_a"] = np.pad(A, (more, (0, 0))).T  # (d_in, r)
        tensors[f"{module}.lora_b"] = np.pad(B * np.float32(adapter.scale[module]), ((0, 0), more)).T  # (r, d_out)
    write_tensors(tensors, folder / "adapters.safetensors")
    keys = sorted({_within_layer(module) for module in adapter.modules})
    settings = {
        "fine_tune_type": "lora",
        "num_layers": config.num_hidden_layers,
        "lora_parameters": {"rank": r, "scale": 1.0, "dropout": 0.0, "keys": keys},
    }
    write_json(settings, folder / "adapter_config.json")


def _within_layer(module: str) -> str:
    """The path of a module as mlx-lm looks for it: from its layer on ("self_attn.q_proj"), or whole outside layers."""
    before, _, after = module.partition(".layers.")
    return after.partition(".")[2] if after else before
