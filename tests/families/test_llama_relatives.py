"""Phi-3, OLMo 2, SmolLM3, Granite and Ministral 3: what each changes in Llama, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import CONFIGS, tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.phi3 import Phi3Config

IDS = np.arange(1, 13)
PLAIN_PHI = {"rope_scaling": None, "partial_rotary_factor": 1.0, "sliding_window": None}


# ---------------------------------------------------------------------------------------------- Phi-3
def test_phi3_is_a_llama_with_its_matrices_stacked() -> None:
    phi, llama = tiny("phi3", **PLAIN_PHI), tiny("llama", hidden_size=24, rms_norm_eps=1e-5)
    stacked = dict(llama.tensors)
    for i in range(2):
        for fused, parts in (("self_attn.qkv_proj", ("q", "k", "v")), ("mlp.gate_up_proj", ("gate", "up"))):
            layer = f"model.layers.{i}.{fused.split('.')[0]}"
            rows = [stacked.pop(f"{layer}.{part}_proj.weight") for part in parts]
            stacked[f"model.layers.{i}.{fused}.weight"] = np.concatenate(rows)
    expected = llama(IDS).logits
    found = type(phi)(phi.config, stacked)(IDS).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_phi3_has_three_names_for_its_rope(kind: str) -> None:
    factors = {key: CONFIGS["phi3"]["rope_scaling"][key] for key in ("short_factor", "long_factor")}
    for spelling in ({"rope_scaling": {"type": kind, **factors}}, {"rope_scaling": {"rope_type": kind, **factors}}):
        assert tiny("phi3", **spelling).config == tiny("phi3").config
    part = {"partial_rotary_factor": 0.7, "rope_theta": 10000.0}
    new = {"rope_type": kind, **factors, **part, "original_max_position_embeddings": 16}
    found = tiny("phi3", rope_scaling=None, partial_rotary_factor=None, rope_parameters=new)
    assert found.config == tiny("phi3").config


def test_the_trained_length_is_4096_unless_it_is_given() -> None:
    values = {k: v for k, v in CONFIGS["phi3"].items() if not k.startswith("original")}
    assert Phi3Config.from_dict(values).rope.parameters["original_max_position_embeddings"] == 4096


@pytest.mark.parametrize("length", [5, 8, 9])
def test_keys_are_made_anew_once_the_text_outgrows_the_trained_length(length: int) -> None:
    # What the cache holds was turned by the short factors; without a cache all is turned by the long ones.
    model = tiny("phi3", original_max_position_embeddings=8)
    options: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": -1}
    padded = np.concatenate([np.zeros((2, 3), dtype=int), np.arange(1, 2 * length + 1).reshape(2, length)], axis=1)
    mask = (padded > 0).astype(int)
    for ids, keep in ((padded[:, 3:], None), (padded, mask)):
        cached = model.generate(ids, keep, **options)
        assert (cached == model.generate(ids, keep, use_cache=False, **options)).all()


# ---------------------------------------------------------------------------------------------- OLMo 2
@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_olmo2_normalises_over_all_heads_at_once(projection: str) -> None:
    model = tiny("olmo2", rms_norm_eps=1e-30)
    name = f"model.layers.0.self_attn.{projection}.weight"
    scaled = type(model)(model.config, {**model.tensors, name: 7.0 * model.tensors[name]})
    np.testing.assert_allclose(scaled(IDS).logits, model(IDS).logits, rtol=0, atol=1e-11)
    one_head = model.tensors[name].copy()
    one_head[:4] *= 7.0
    other = type(model)(model.config, {**model.tensors, name: one_head})
    assert np.abs(other(IDS).logits - model(IDS).logits).max() > 1e-3


def test_olmo2_normalises_what_a_layer_adds() -> None:
    model = tiny("olmo2", rms_norm_eps=1e-30)
    scaled = dict(model.tensors)
    for module in ("self_attn.o_proj", "mlp.down_proj"):
        scaled[f"model.layers.1.{module}.weight"] = 5.0 * scaled[f"model.layers.1.{module}.weight"]
    np.testing.assert_allclose(type(model)(model.config, scaled)(IDS).logits, model(IDS).logits, rtol=0, atol=1e-11)


# ---------------------------------------------------------------------------------------------- SmolLM3
def test_smollm3_without_its_bare_layers_is_llama() -> None:
    llama = tiny("llama", tie_word_embeddings=True, rope_theta=2e6)
    assert (tiny("smollm3", no_rope_layers=[1, 1])(IDS).logits == llama(IDS).logits).all()
    assert np.abs(tiny("smollm3")(IDS).logits - llama(IDS).logits).max() > 1e-3


def test_without_rotation_earlier_tokens_have_no_order() -> None:
    bare = tiny("smollm3", num_hidden_layers=1, no_rope_layers=[0])
    swapped = IDS.copy()
    swapped[[2, 7]] = swapped[[7, 2]]
    np.testing.assert_allclose(bare(swapped).logits[-1], bare(IDS).logits[-1], rtol=0, atol=1e-12)


def test_windows_are_in_the_bare_layers_alone() -> None:
    model = tiny("smollm3", num_hidden_layers=4, use_sliding_window=True, sliding_window=3)
    assert [model.window(i) for i in range(4)] == [None, 3, None, 3]
    assert [tiny("smollm3", sliding_window=3).window(i) for i in range(2)] == [None, None]


# ---------------------------------------------------------------------------------------------- Granite
def test_granite_with_multipliers_of_one_is_llama() -> None:
    ones = dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0)
    granite = tiny("granite", **ones, attention_multiplier=0.5)  # of 4 channels a head
    assert (granite(IDS).logits == tiny("llama", tie_word_embeddings=True)(IDS).logits).all()


def test_logits_scaling_divides_the_logits_alone() -> None:
    once, twice = tiny("granite", logits_scaling=1.0), tiny("granite", logits_scaling=2.0)
    assert (once(IDS).logits == 2.0 * twice(IDS).logits).all()


def test_granite_4_is_granite_3_with_gate_and_up_stacked() -> None:
    fused, plain = tiny("granitemoehybrid"), tiny("granite", intermediate_size=20)
    stacked = dict(plain.tensors)
    for i in range(2):
        old, new = f"model.layers.{i}.mlp", f"model.layers.{i}.shared_mlp"
        rows = [stacked.pop(f"{old}.{part}_proj.weight") for part in ("gate", "up")]
        stacked[f"{new}.input_linear.weight"] = np.concatenate(rows)
        stacked[f"{new}.output_linear.weight"] = stacked.pop(f"{old}.down_proj.weight")
    expected, found = plain(IDS).logits, type(fused)(fused.config, stacked)(IDS).logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# ---------------------------------------------------------------------------------------------- Ministral 3
def rope(**changes: Any) -> dict[str, Any]:
    values = {**CONFIGS["ministral3"]["rope_parameters"], **changes}
    return {"rope_parameters": {k: v for k, v in values.items() if v is not None}}


def test_only_queries_beyond_the_trained_length_are_enlarged() -> None:
    model, plain = tiny("ministral3"), tiny("ministral3", **rope(llama_4_scaling_beta=0))
    assert (model(IDS).logits[:4] == plain(IDS).logits[:4]).all()
    assert (model(IDS).logits[4:] != plain(IDS).logits[4:]).any(axis=1).all()
    mistral = tiny("mistral", sliding_window=None, head_dim=6, rms_norm_eps=1e-5, **rope(llama_4_scaling_beta=None))
    assert (plain(IDS).logits == mistral(IDS).logits).all()


def test_a_configuration_without_rope_settings_has_those_of_transformers() -> None:
    values = {k: v for k, v in CONFIGS["ministral3"].items() if k != "rope_parameters"}
    config = type(tiny("ministral3").config).from_dict(values)
    assert (config.beta, config.rope.kind, config.rope.theta, config.rope.stretch) == (0.1, "yarn", 1e6, 16.0)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, '"linear" of a phi3 model'),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 2.0]}}, "short_f"),
        ("phi3", {"partial_rotary_factor": 0.5}, "even number"),
        ("phi3", {"attention_bias": True}, "attention_bias"),
        ("phi3", {"mlp_bias": True}, "mlp_bias"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias"),
        ("phi3", {"interpolate_factor": 2}, "interpolate_factor"),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv"),
        ("olmo2", {"layer_types": ["full_attention"] * 2}, "layer_types"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers"),
        ("smollm3", {"no_rope_layers": ["1", "0"]}, "no_rope_layers"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval"),
        ("smollm3", {"layer_types": ["full_attention", "sliding_attention"]}, "set no window"),
        ("granite", {"logits_scaling": 0.0}, "logits_scaling"),
        ("granite", {"residual_multiplier": "0.2"}, "residual_multiplier"),
        ("granitemoehybrid", {"num_local_experts": 4}, "num_local_experts"),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention"]}, "Mamba"),
        ("granitemoehybrid", {"layer_types": None}, "Mamba"),
        ("granitemoehybrid", {"position_embedding_type": "learned"}, "position_embedding_type"),
        ("ministral3", rope(llama_4_scaling_beta=None), "llama_4_scaling_beta"),
        ("ministral3", rope(llama_4_scaling_beta=-1.0), "llama_4_scaling_beta"),
        (
            "ministral3",
            {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}},
            '"default" of a min',
        ),
    ],
)
def test_refusals(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(kind, **changes)
