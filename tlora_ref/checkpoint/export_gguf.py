"""Adapters as GGUF files, for `llama-cli -m MODEL.gguf --lora adapter.gguf`. The package `gguf` writes them.

llama.cpp adds (alpha / r) B A x to a module's output, r read off the matrices and one alpha for all: with alpha 1, a
module's own scale s_i goes into B as s_i r_i. Its converter reorders the rows of some weights; those of B go along.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import ConfigError

ALPHA = 1.0
#: model_type -> llama.cpp's architecture.
ARCHITECTURES = {
    **{kind: kind for kind in ("gemma", "gemma2", "gpt2", "granite", "llama", "olmo2", "phi3", "qwen2", "qwen3")},
    **{"gemma3_text": "gemma3", "gpt_neox": "gptneox", "mistral": "llama", "smollm3": "smollm3"},
    "starcoder2": "starcoder2",
}
#: Families whose queries and keys llama.cpp turns pair by pair (x_0, x_1), where transformers pairs halves.
PAIRED = ("granite", "llama", "mistral", "smollm3")


def write_gguf(adapter: Adapter, config: Any, folder: Path) -> None:
    """`adapter.gguf`: A and B of every module in float32, under llama.cpp's names of the base model's weights.

    Raises
    ------
    ConfigError
        if llama.cpp does not have the family, or no name for a module; or if `gguf` is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise ConfigError('export --to gguf-lora needs the package gguf: pip install "tlora-ref[gguf]"') from None
    if config.model_type not in ARCHITECTURES:
        raise ConfigError(
            f"export --to gguf-lora: not for {config.model_type} models, but for {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture = ARCHITECTURES[config.model_type]
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = getattr(config, "num_hidden_layers", None) or config.n_layer
    names = gguf.get_tensor_name_map(numbers[architecture], layers)
    writer = gguf.GGUFWriter(folder / "adapter.gguf", architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, ALPHA)
    for module in adapter.modules:
        name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None or (module == "lm_head" and config.tie_word_embeddings):
            raise ConfigError(f"export --to gguf-lora: llama.cpp has no weight for {module} of its own")
        A, B = (to_numpy(matrices[module]).astype(np.float32) for matrices in (adapter.A, adapter.B))
        factor = np.float32(adapter.scale[module] * len(A) / ALPHA)
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(A))  # (r, d_in)
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(reordered(module, B, config) * factor))  # (d_out, r)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reordered(module: str, B: Array, config: Any) -> Array:
    """The rows of B (d_out, r) in the order in which llama.cpp has those of the module's weight."""
    end, r = module.rpartition(".")[2], B.shape[1]
    if config.model_type in PAIRED and end in ("q_proj", "k_proj"):
        # Channel i of a head's first half beside channel i of the second: (heads, 2, d_head / 2) -> (.., d_head / 2, 2)
        return B.reshape(-1, 2, config.head_dim // 2, r).swapaxes(1, 2).reshape(B.shape)
    if config.model_type == "gpt_neox" and end == "query_key_value":
        # All queries, all keys, all values, where the checkpoint goes head by head.
        heads = config.num_attention_heads
        return B.reshape(heads, 3, -1, r).swapaxes(0, 1).reshape(B.shape)
    return B
