"""Gemma, Gemma 2 and Gemma 3: what each adds to Llama, and both spellings of what they are configured by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.families.common import CONFIGS, tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.gemma2 import Gemma2Config
from tlora_ref.transformer.gemma3_text import Gemma3Config
from tlora_ref.transformer.rope import Rope

IDS = np.arange(1, 13)
KINDS = ("gemma", "gemma2", "gemma3_text")


@pytest.mark.parametrize("kind", KINDS)
def test_norms_count_their_weight_from_one(kind: str) -> None:
    # Weights of -1 in the last norm leave nothing of the text: every logit is 0.
    model = tiny(kind)
    silent = {**model.tensors, "model.norm.weight": -np.ones(16)}
    assert (type(model)(model.config, silent)(IDS).logits == 0).all()


def test_gemma_is_a_scaled_llama() -> None:
    gemma, llama = tiny("gemma"), tiny("llama", head_dim=6, tie_word_embeddings=True, hidden_act="gelu_new")
    shifted = {n: x + 1.0 if n.endswith("norm.weight") else x for n, x in gemma.tensors.items()}
    embed = "model.embed_tokens.weight"
    shifted["model.norm.weight"] = shifted["model.norm.weight"] / 4.0  # the tied output is scaled along with it
    shifted[embed] = shifted[embed] * math.sqrt(16)
    expected = type(llama)(llama.config, shifted)(IDS).logits
    np.testing.assert_allclose(gemma(IDS).logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("values", "act"),
    [
        ({}, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_pytorch_tanh"),
        ({"hidden_activation": "relu"}, "relu"),
    ],
)
def test_activations_of_gemma(values: dict[str, Any], act: str) -> None:
    assert tiny("gemma", **values).config.hidden_act == act


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text"])
def test_activations_of_the_later_ones(kind: str) -> None:
    assert tiny(kind).config.hidden_act == "gelu_pytorch_tanh"
    assert tiny(kind, hidden_act="gelu").config.hidden_act == "gelu_pytorch_tanh"
    assert tiny(kind, hidden_activation="gelu").config.hidden_act == "gelu"


def test_caps_bound_the_logits_and_the_scores() -> None:
    model = tiny("gemma2", final_logit_softcapping=0.5)
    logits = model(IDS).logits
    assert np.abs(logits).max() <= 0.5
    free = tiny("gemma2", final_logit_softcapping=None)
    np.testing.assert_allclose(logits, 0.5 * np.tanh(free(IDS).logits / 0.5), rtol=1e-12)
    # Scores capped to almost nothing weigh all that is seen alike: so does a scale of almost nothing.
    even = tiny("gemma2", attn_logit_softcapping=1e-9)(IDS).logits
    flat = tiny("gemma2", attn_logit_softcapping=None, query_pre_attn_scalar=10**18)(IDS).logits
    np.testing.assert_allclose(even, flat, rtol=0, atol=1e-6)


def test_layers_with_the_window() -> None:
    assert [tiny("gemma2", num_hidden_layers=4).window(i) for i in range(4)] == [3, None, 3, None]
    six = tiny("gemma3_text", num_hidden_layers=7, sliding_window_pattern=None)
    assert [six.window(i) for i in range(7)] == [3, 3, 3, 3, 3, None, 3]
    assert [tiny("gemma3_text").window(i) for i in range(3)] == [3, None, 3]


def test_both_spellings_of_the_two_bases() -> None:
    linear = {"rope_type": "linear", "factor": 8.0}
    old = tiny("gemma3_text", rope_scaling=linear).config
    new = {
        "full_attention": {**linear, "rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    }
    plain = {k: v for k, v in CONFIGS["gemma3_text"].items() if not k.startswith("rope")}
    assert Gemma3Config.from_dict({**plain, "rope_parameters": new}) == old
    assert (old.rope, old.local_rope) == (Rope(1e5, "linear", {"factor": 8.0}, 64), Rope(50.0, max_positions=64))
    usual = Gemma3Config.from_dict(plain)
    assert (usual.rope.theta, usual.local_rope.theta) == (1e6, 1e4)
    assert Gemma3Config.from_dict(old.to_dict()) == old


def test_defaults_are_those_of_transformers() -> None:
    values = {"vocab_size": 31, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 1}
    config = Gemma2Config.from_dict({**values, "num_attention_heads": 8})
    assert (config.final_logit_softcapping, config.attn_logit_softcapping, config.sliding_window) == (30.0, 50.0, 4096)
    assert (config.num_key_value_heads, config.head_dim, config.tie_word_embeddings) == (4, 256, True)
    third = Gemma3Config.from_dict({**values, "num_attention_heads": 8})
    assert (third.final_logit_softcapping, third.attn_logit_softcapping) == (None, None)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gemma", {"hidden_act": "relu", "hidden_activation": "silu"}, "hidden_activation"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"hidden_act": "relu"}, "hidden_activation"),
        ("gemma2", {"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
        ("gemma2", {"final_logit_softcapping": "30"}, "final_logit_softcapping"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma2", {"sliding_window": None}, "set no window"),
        ("gemma2", {"sliding_window_size": 4}, "sliding_window_size"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "expected full_attention"),
        ("gemma3_text", {"rope_parameters": {"full_attention": "default"}}, '"full_attention" is'),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear"}}, '"factor"'),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(kind, **changes)
