"""Every decoder against transformers in true float64: logits, loss, every gradient, greedy generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.families.common import CLASSIFIERS, CONFIGS, PAD, padded_batch  # noqa: E402
from tests.families.with_transformers import (  # noqa: E402 (needs torch)
    check_generation,
    check_language_model,
    check_pass,
    ours,
    theirs,
)

pytestmark = pytest.mark.parity

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LONG = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 8,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
WINDOWED = ["sliding_attention", "full_attention"]
#: What of a family's config.json changes -> the quirk that this draws in.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 6, "hidden_act": "gelu"}),
    "llama-tied-one-group": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}, "rope_theta": 500.0}),
    "llama-dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 8}),
    "llama-dynamic-short": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "llama-yarn-real": ("llama", {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 2.0, "beta_slow": 0.3}}),
    "llama-yarn-attention": ("llama", {"rope_scaling": {**YARN, "attention_factor": 1.3}, "head_dim": 8}),
    "llama-yarn-mscale": ("llama", {"rope_scaling": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}}),
    "llama-longrope": ("llama", {"rope_scaling": LONG}),
    "llama-longrope-short": ("llama", {"rope_scaling": {**LONG, "original_max_position_embeddings": 32}}),
    "llama-longrope-factor": ("llama", {"rope_scaling": {**LONG, "factor": 3.0}}),
    "llama-llama3": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 100.0, "head_dim": 8}),
    "mistral": ("mistral", {}),
    "mistral-no-window": ("mistral", {"sliding_window": None}),
    "mistral-window-of-two": ("mistral", {"sliding_window": 2, "head_dim": 6}),
    "qwen2": ("qwen2", {}),
    "qwen2-no-window": ("qwen2", {"use_sliding_window": False, "tie_word_embeddings": False}),
    "qwen2-layer-types": ("qwen2", {"layer_types": WINDOWED}),
    "qwen2-yarn": ("qwen2", {"rope_scaling": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen3-bias-tied": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-layer-types": ("qwen3", {"use_sliding_window": True, "sliding_window": 3, "layer_types": WINDOWED}),
    "gemma": ("gemma", {}),
    "gemma-biases-untied": (
        "gemma",
        {"attention_bias": True, "tie_word_embeddings": False, "hidden_act": "gelu", "num_key_value_heads": 1},
    ),
    "gemma-exact-act": ("gemma", {"hidden_act": "silu"}),
    "gemma2": ("gemma2", {}),
    "gemma2-no-caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma2-layer-types": ("gemma2", {"layer_types": WINDOWED[::-1], "tie_word_embeddings": False}),
    "gemma2-gelu-yarn": ("gemma2", {"hidden_activation": "gelu", "rope_scaling": YARN, "head_dim": 4}),
    "gemma3": ("gemma3_text", {}),
    "gemma3-linear": ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3-capped": ("gemma3_text", {"final_logit_softcapping": 2.0, "attention_bias": True}),
    "gemma3-six": ("gemma3_text", {"num_hidden_layers": 7, "sliding_window_pattern": 6}),
    "gemma3-ropes": (
        "gemma3_text",
        {
            "rope_theta": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 70.0},
            },
        },
    ),
    "granite": ("granite", {}),
    "granite-untied-biases": ("granite", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "granite-yarn": ("granite", {"rope_scaling": YARN, "hidden_act": "gelu"}),
    "lfm2": ("lfm2", {}),
    "lfm2-four-taps-untied": ("lfm2", {"full_attn_idxs": [0], "conv_L_cache": 4, "tie_embedding": False}),
    "lfm2-attention-alone": ("lfm2", {"layer_types": ["full_attention"] * 3, "block_auto_adjust_ff_dim": False}),
    "lfm2-wider": ("lfm2", {"block_ffn_dim_multiplier": 1.3, "layer_types": ["conv", "conv", "full_attention"]}),
    "granite-4": ("granitemoehybrid", {}),
    "granite-4-nope-untied": ("granitemoehybrid", {"position_embedding_type": None, "tie_word_embeddings": False}),
    "granite-4-biases": ("granitemoehybrid", {"attention_bias": True, "hidden_act": "gelu"}),
    "ministral3": ("ministral3", {}),
    "ministral3-window": ("ministral3", {"sliding_window": 3, "tie_word_embeddings": True}),
    "olmo2": ("olmo2", {}),
    "olmo2-biases-tied": ("olmo2", {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "olmo2-yarn": ("olmo2", {"rope_scaling": YARN}),
    "phi3": ("phi3", {}),
    "phi3-crossing": ("phi3", {"original_max_position_embeddings": 8}),
    "phi3-long": ("phi3", {"original_max_position_embeddings": 3, "sliding_window": None}),
    "phi3-su": (
        "phi3",
        {"rope_scaling": {**CONFIGS["phi3"]["rope_scaling"], "type": "su", "original_max_position_embeddings": 8}},
    ),
    "phi3-plain": ("phi3", {"rope_scaling": None, "partial_rotary_factor": 1.0, "tie_word_embeddings": True}),
    "phi3-part": ("phi3", {"rope_scaling": None, "rope_theta": 300.0, "num_key_value_heads": None}),
    "smollm3": ("smollm3", {}),
    "smollm3-windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 3, "tie_word_embeddings": False}),
    "smollm3-layers": ("smollm3", {"no_rope_layers": [0, 1], "attention_bias": True, "mlp_bias": True}),
    "smollm3-layer-types": (
        "smollm3",
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": WINDOWED, "no_rope_layers": [1, 0]},
    ),
    "smollm3-yarn": ("smollm3", {"rope_scaling": YARN, "rope_theta": 1e4}),
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False, "n_inner": 20, "activation_function": "relu"}),
    "starcoder2": ("starcoder2", {}),
    "starcoder2-no-window": ("starcoder2", {"sliding_window": None, "tie_word_embeddings": False}),
    "starcoder2-no-bias": ("starcoder2", {"use_bias": False, "norm_epsilon": 1e-3, "hidden_act": "gelu"}),
    "starcoder2-yarn": ("starcoder2", {"rope_scaling": YARN, "sliding_window": 2}),
    "opt": ("opt", {}),
    "opt-350m": ("opt", {"word_embed_proj_dim": 12, "do_layer_norm_before": False}),
    "opt-untied": ("opt", {"tie_word_embeddings": False, "word_embed_proj_dim": 20, "activation_function": "gelu"}),
    "opt-galactica": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    "neox": ("gpt_neox", {}),
    "neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "neox-no-bias": ("gpt_neox", {"attention_bias": False, "rotary_emb_base": 300.0, "layer_norm_eps": 1e-3}),
    "neox-tied-gelu-new": ("gpt_neox", {"tie_word_embeddings": True, "hidden_act": "gelu_new"}),
    "neox-linear": ("gpt_neox", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_language_model(variant: str) -> None:
    kind, changes = VARIANTS[variant]
    values = {**CONFIGS[kind], **changes}
    model = theirs(values)
    check_language_model(model, ours(model))
    check_generation(model, ours(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_spellings_of_the_configuration_agree(variant: str) -> None:
    # What transformers 4 wrote (the dictionary above), what transformers 5 writes, and what we write.
    kind, changes = VARIANTS[variant]
    values = {**CONFIGS[kind], **changes}
    model = theirs(values)
    old, new = ours(model, values), ours(model)
    again = ours(theirs({k: v for k, v in old.config.to_dict().items() if k != "architectures"}))
    ids = np.random.default_rng(2).integers(0, 31, (1, 12))
    expected = new(ids).logits
    assert (old(ids).logits == expected).all()
    assert (again(ids).logits == expected).all()


def test_dynamic_frequencies_grow_with_the_longest_row() -> None:
    kind, changes = VARIANTS["llama-dynamic"]
    model = theirs({**CONFIGS[kind], **changes})
    for length in (5, 9, 14):
        ids = np.random.default_rng(length).integers(0, 31, (2, length))
        check_pass(model, ours(model), {"input_ids": ids, "labels": ids})


def test_window_of_one() -> None:
    # Without generation: the cache of transformers 5 forgets to forget at this length (its slice [-1 + 1 :] is whole).
    model = theirs({**CONFIGS["mistral"], "sliding_window": 1})
    check_language_model(model, ours(model))


def test_convolutions_with_biases() -> None:
    # Without padding: in transformers a convolution's first taps see the bias of what is padded, here they see zeros.
    model = theirs({**CONFIGS["lfm2"], "conv_bias": True})
    ids = np.random.default_rng(5).integers(1, 31, (2, 11))
    check_pass(model, ours(model), {"input_ids": ids, "labels": ids})


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_classifier(kind: str, side: str) -> None:
    values = {**CONFIGS[kind], "pad_token_id": PAD, "id2label": {0: "a", 1: "b", 2: "c"}}
    model = theirs(values, CLASSIFIERS[kind])
    mine = ours(model)
    assert mine.config.labels == ("a", "b", "c")
    batch = {**padded_batch(side, rows=(9, 6, 3)), "labels": np.array([2, 0, 1])}
    check_pass(model, mine, batch)


def test_classifier_without_padding_id() -> None:
    model = theirs(CONFIGS["llama"], CLASSIFIERS["llama"])
    check_pass(model, ours(model), {"input_ids": np.array([[4, 9, 2, 7]]), "labels": np.array([1])})


def test_the_last_token_is_found_by_its_id() -> None:
    # As in transformers: a padding id inside a row is passed over, whatever the mask says of it.
    model = theirs({**CONFIGS["gpt2"], "pad_token_id": PAD}, CLASSIFIERS["gpt2"])
    check_pass(model, ours(model), {"input_ids": np.array([[4, 9, PAD], [4, PAD, 9]]), "labels": np.array([1, 0])})
