"""The config.json of well-known checkpoints: each is read, and gives the number of parameters that is published."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from tlora_ref.transformer import family

COMMON = {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": True, "initializer_range": 0.02}
LLAMA_31_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def llama_like(kind: str, name: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        **dict(zip((*keys, "num_key_value_heads", "max_position_embeddings"), sizes, strict=True)),
        **{"model_type": kind, "architectures": [f"{name}ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5},
        **{"attention_dropout": 0.0, **COMMON, **more},
    }


def opt(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        **{"model_type": "opt", "architectures": ["OPTForCausalLM"], "activation_function": "relu", "prefix": "</s>"},
        **{"activation_dropout": 0.0, "dropout": 0.1, "layerdrop": 0.0, "init_std": 0.02, "bos_token_id": 2},
        **{"do_layer_norm_before": True, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 2048},
        **{"hidden_size": width, "ffn_dim": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads},
        **{"vocab_size": 50272, "word_embed_proj_dim": width, "torch_dtype": "float16", **more},
    }


QWEN = {"bos_token_id": 151643, "eos_token_id": 151645, "rope_theta": 1e6, "tie_word_embeddings": True}
KNOWN: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-2-7b": (
        6_738_415_616,
        llama_like(
            *("llama", "Llama", (32000, 4096, 11008, 32, 32, 32, 4096)),
            **{"pretraining_tp": 1, "rope_scaling": None, "tie_word_embeddings": False},
        ),
    ),
    "Llama-3.1-8B": (
        8_030_261_248,
        llama_like(
            *("llama", "Llama", (128256, 4096, 14336, 32, 32, 8, 131072)),
            **{"rope_scaling": LLAMA_31_ROPE, "rope_theta": 500000.0, "eos_token_id": [128001, 128008, 128009]},
            **{"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False},
        ),
    ),
    "SmolLM2-135M": (
        134_515_008,
        llama_like(
            *("llama", "Llama", (49152, 576, 1536, 30, 9, 3, 8192)),
            **{"is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True},
        ),
    ),
    "Mistral-7B-v0.1": (
        7_241_732_096,
        llama_like(
            *("mistral", "Mistral", (32000, 4096, 14336, 32, 32, 8, 32768)),
            **{"sliding_window": 4096, "rope_theta": 10000.0, "tie_word_embeddings": False},
        ),
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        llama_like(
            *("qwen2", "Qwen2", (151936, 896, 4864, 24, 14, 2, 32768)),
            **{**QWEN, "sliding_window": 32768, "max_window_layers": 24, "use_sliding_window": False},
            use_mrope=False,
        ),
    ),
    "Qwen3-0.6B": (
        596_049_920,
        llama_like(
            *("qwen3", "Qwen3", (151936, 1024, 3072, 28, 16, 8, 40960)),
            **{**QWEN, "head_dim": 128, "attention_bias": False, "rope_scaling": None},
            **{"sliding_window": None, "max_window_layers": 28, "use_sliding_window": False},
        ),
    ),
    "gpt2": (
        124_439_808,
        {
            **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"},
            **{"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "initializer_range": 0.02},
            **{"bos_token_id": 50256, "eos_token_id": 50256, "layer_norm_epsilon": 1e-5, "vocab_size": 50257},
            **{"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
            **{"summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True},
            **{"summary_type": "cls_index", "summary_use_proj": True, "task_specific_params": {"text-generation": {}}},
        },
    ),
    "opt-125m": (125_239_296, opt(768, 12, 12)),
    "opt-350m": (331_196_416, opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)),
    "opt-1.3b": (1_315_758_080, opt(2048, 24, 32)),
    "pythia-70m": (
        70_426_624,
        {
            **{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu"},
            **{"bos_token_id": 0, "eos_token_id": 0, "hidden_size": 512, "intermediate_size": 2048},
            **{"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 8},
            **{"num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False},
            **{"use_parallel_residual": True, "vocab_size": 50304, **COMMON},
        },
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_size(name: str) -> None:
    published, values = KNOWN[name]
    config_class, model_class = family(values["model_type"], values["architectures"])
    shapes = model_class.tensor_shapes(config_class.from_dict(values))
    assert sum(prod(shape) for shape in shapes.values()) == published
