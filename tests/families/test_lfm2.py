"""LFM2: its convolution, its MLP's width, and the spellings of its configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import check_cache, check_padding, tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.lfm2 import Lfm2

IDS = np.arange(1, 13)
CONV_ALONE = {"full_attn_idxs": [], "num_hidden_layers": 1}


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_a_layer_of_convolution_reaches_as_far_as_its_taps(taps: int) -> None:
    model, changed = tiny("lfm2", **CONV_ALONE, conv_L_cache=taps), IDS.copy()
    changed[3] = 30
    differs = (model(IDS).logits != model(changed).logits).any(axis=1)
    assert list(np.nonzero(differs)[0]) == list(range(3, 3 + taps))


@pytest.mark.parametrize("changes", [{"conv_bias": True}, {"full_attn_idxs": []}, {"conv_L_cache": 5}])
def test_padding_and_cache_change_nothing(changes: dict[str, Any]) -> None:
    model = tiny("lfm2", **changes)
    check_padding(model)
    check_cache(model)


def test_a_layer_by_hand() -> None:
    model, name = tiny("lfm2", **CONV_ALONE), "model.layers.0.conv"
    t = model.tensors

    def norm(x: np.ndarray, weight: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * t[f"{weight}.weight"]

    x = t["model.embed_tokens.weight"][IDS]
    B, C, v = np.split(norm(x, "model.layers.0.operator_norm") @ t[f"{name}.in_proj.weight"].T, 3, axis=1)
    seen = np.concatenate([np.zeros((2, 16)), B * v])
    y = sum(seen[j : j + 12] * t[f"{name}.conv.weight"][:, 0, j] for j in range(3))
    x = x + (C * y) @ t[f"{name}.out_proj.weight"].T
    n, mlp = norm(x, "model.layers.0.ffn_norm"), "model.layers.0.feed_forward"
    gate, up = n @ t[f"{mlp}.w1.weight"].T, n @ t[f"{mlp}.w3.weight"].T
    x = x + (gate / (1 + np.exp(-gate)) * up) @ t[f"{mlp}.w2.weight"].T
    logits = norm(x, "model.embedding_norm") @ t["model.embed_tokens.weight"].T
    np.testing.assert_allclose(model(IDS).logits, logits, rtol=0, atol=1e-12 * np.abs(logits).max())


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({}, 20),  # two thirds of 24 is 16: four blocks of 5
        ({"block_ff_dim": None, "intermediate_size": 24}, 20),
        ({"block_ffn_dim_multiplier": 1.3}, 20),
        ({"block_ffn_dim_multiplier": 1.4}, 25),
        ({"block_auto_adjust_ff_dim": False}, 24),
    ],
)
def test_width_of_the_mlp(changes: dict[str, Any], width: int) -> None:
    assert tiny("lfm2", **changes).config.d_ff == width


def test_targets_are_those_that_there_are() -> None:
    only = {
        kind: Lfm2.target_shapes(tiny("lfm2", full_attn_idxs=full).config)
        for kind, full in (("c", []), ("a", [0, 1, 2]))
    }
    assert {m.split(".")[3] for m in only["c"]} == {"conv", "feed_forward"}
    assert {m.split(".")[3] for m in only["a"]} == {"self_attn", "feed_forward"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["conv", "full_attention"]}, "layer_types"),
        ({"layer_types": ["conv", "full_attention", "sliding_attention"]}, "layer_types"),
        ({"conv_L_cache": 0}, "conv_L_cache"),
        ({"conv_dim": 8}, "conv_dim"),
        ({"num_heads": 8}, "num_heads"),
        ({"use_pos_enc": False}, "use_pos_enc"),
        ({"block_norm_eps": 1e-3}, "block_norm_eps"),
        ({"block_ffn_dim_multiplier": -1.0}, "block_ffn_dim_multiplier"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("lfm2", **changes)
