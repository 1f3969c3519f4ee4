"""OPT: positions, the 350M model's projections and norms, Galactica's missing biases, names of checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import check_finite_differences, padded_batch, tiny
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.opt import OPT

IDS = np.arange(1, 13)
OF_350M = {"word_embed_proj_dim": 12, "do_layer_norm_before": False}
GALACTICA = {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"}


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_names_of_checkpoints(prefix: str) -> None:
    model = tiny("opt", **OF_350M)
    stored = {prefix + name.removeprefix("model."): x for name, x in model.tensors.items()}
    stored["lm_head.weight"] = stored[f"{prefix}decoder.embed_tokens.weight"]
    found = OPT.sanitize(stored, model.config)
    assert set(found) == set(model.tensors)
    assert all(found[name] is x for name, x in model.tensors.items())


def test_the_first_two_rows_of_the_position_table_belong_to_no_token() -> None:
    model, name = tiny("opt"), "model.decoder.embed_positions.weight"
    assert model.tensors[name].shape == (66, 16)
    changed = model.tensors[name].copy()
    changed[:2, 0] += 1.0
    other = OPT(model.config, {**model.tensors, name: changed})
    assert (other(IDS).logits == model(IDS).logits).all()
    changed[2, 0] += 1.0
    assert (OPT(model.config, {**model.tensors, name: changed})(IDS).logits[0] != model(IDS).logits[0]).all()


def test_positions_end() -> None:
    model = tiny("opt", max_position_embeddings=12)
    assert model(IDS).logits.shape == (12, 31)
    with pytest.raises(DataError, match=r"13 tokens: .* 12 learned positions"):
        model(np.ones(13, dtype=int))
    with pytest.raises(DataError, match="max_position_embeddings"):
        model.generate(IDS, max_new_tokens=2, eos_token_id=-1)
    padded = np.concatenate([np.zeros(8, dtype=int), IDS])  # padding takes no position
    assert model(padded, np.repeat([0, 1], [8, 12])).logits.shape == (20, 31)


def test_the_350m_model_projects_and_has_no_last_norm() -> None:
    model = tiny("opt", **OF_350M)
    shapes = model.tensors
    assert shapes["model.decoder.embed_tokens.weight"].shape == (31, 12)
    assert shapes["model.decoder.project_in.weight"].shape == (16, 12)
    assert shapes["model.decoder.project_out.weight"].shape == (12, 16)
    assert "model.decoder.final_layer_norm.weight" not in shapes
    assert not any("project" in module for module in model.shapes())
    assert list(model.shapes(["project_in", "project_out"])) == [
        "model.decoder.project_in",
        "model.decoder.project_out",
    ]


@pytest.mark.parametrize("changes", [OF_350M, GALACTICA, {**GALACTICA, "do_layer_norm_before": False}])
def test_gradients_of_the_variants(changes: dict[str, Any]) -> None:
    check_finite_differences(tiny("opt", **changes), padded_batch("left"))


def test_galactica_has_no_biases_and_no_weights_of_norms() -> None:
    names = OPT.tensor_shapes(tiny("opt", **GALACTICA).config)
    assert not any(name.endswith("bias") or "layer_norm" in name for name in names)


def test_attention_is_softmax_of_scaled_scores() -> None:
    # One layer and no MLP, written out from the definition, the norm after the sum.
    model = tiny("opt", num_hidden_layers=1, num_attention_heads=1, do_layer_norm_before=False)
    t = {n.removeprefix("model.decoder."): x for n, x in model.tensors.items()}
    t["layers.0.fc2.weight"] *= 0.0
    t["layers.0.fc2.bias"] *= 0.0

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * t[f"layers.0.{name}.weight"] + t[f"layers.0.{name}.bias"]

    x = t["embed_tokens.weight"][IDS] + t["embed_positions.weight"][2:14]
    q, k, v = (x @ t[f"layers.0.self_attn.{p}_proj.weight"].T + t[f"layers.0.self_attn.{p}_proj.bias"] for p in "qkv")
    p = np.where(np.tri(12) == 1, np.exp(q @ k.T / 4.0), 0.0)
    y = (p / p.sum(1, keepdims=True)) @ v @ t["layers.0.self_attn.out_proj.weight"].T
    x = norm(x + y + t["layers.0.self_attn.out_proj.bias"], "self_attn_layer_norm")
    expected = norm(x, "final_layer_norm") @ t["embed_tokens.weight"].T
    np.testing.assert_allclose(model(IDS).logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
        ({"activation_function": "gelu_sideways"}, "gelu_sideways"),
        ({"hidden_size": 18}, "not a multiple"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("opt", **changes)


def test_defaults_are_those_of_transformers() -> None:
    config = tiny("opt", **dict.fromkeys(("pad_token_id", "word_embed_proj_dim"), None)).config
    assert (config.pad_token_id, config.word_embed_proj_dim, config.activation_function) == (None, 16, "relu")
