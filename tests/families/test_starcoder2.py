"""StarCoder2: its window, its norms, its MLP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import check_finite_differences, padded_batch, tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.starcoder2 import Starcoder2, Starcoder2Config

IDS = np.arange(1, 13)


@pytest.mark.parametrize("window", [1, 3, None])
def test_a_token_reaches_as_far_as_its_window_times_the_layers(window: int | None) -> None:
    model = tiny("starcoder2", sliding_window=window)
    changed = IDS.copy()
    changed[0] = 30
    differs = (model(IDS).logits != model(changed).logits).any(axis=1)
    reach = 2 * (window - 1) if window else 11
    assert differs[: reach + 1].all() and not differs[reach + 1 :].any()


def test_one_layer_by_its_equations() -> None:
    # Two tokens that see themselves alone: attention is v, and nothing turns.
    model = tiny("starcoder2", num_hidden_layers=1, sliding_window=1, num_key_value_heads=4)
    t = {name.removeprefix("model.layers.0."): x for name, x in model.tensors.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = t["model.embed_tokens.weight"][[5, 9]]
    x = x + linear(linear(norm(x, "input_layernorm"), "self_attn.v_proj"), "self_attn.o_proj")
    h = linear(norm(x, "post_attention_layernorm"), "mlp.c_fc")
    h = 0.5 * h * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (h + 0.044715 * h**3)))
    x = norm(x + linear(h, "mlp.c_proj"), "model.norm")
    expected = x @ t["model.embed_tokens.weight"].T
    np.testing.assert_allclose(model([5, 9]).logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_without_biases_only_norms_have_them() -> None:
    biases = [n for n in Starcoder2.tensor_shapes(tiny("starcoder2", use_bias=False).config) if n.endswith("bias")]
    assert biases and all("norm" in name for name in biases)
    check_finite_differences(tiny("starcoder2", use_bias=False), padded_batch("right"))


def test_defaults_are_those_of_transformers() -> None:
    config = Starcoder2Config.from_dict({})
    assert (config.vocab_size, config.num_key_value_heads, config.head_dim) == (49152, 2, 128)
    assert (config.hidden_act, config.sliding_window, config.tie_word_embeddings) == ("gelu_pytorch_tanh", None, True)
    assert "rms_norm_eps" not in config.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "rms_norm"}, "norm_type"),
        ({"mlp_type": "gated"}, "mlp_type"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"layer_types": ["full_attention", "full_attention"]}, "layer_types"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("starcoder2", **changes)
