"""Qwen2: implied biases, and which layers have the window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.qwen2 import Qwen2

IDS = np.arange(1, 13)
PLAIN = {"use_sliding_window": False, "tie_word_embeddings": False}


def test_q_k_and_v_have_biases_and_nothing_else_has() -> None:
    biases = [n for n in Qwen2.tensor_shapes(tiny("qwen2").config) if n.endswith("bias")]
    assert biases == [f"model.layers.{i}.self_attn.{p}_proj.bias" for i in range(2) for p in "qkv"]


def test_without_its_biases_it_is_llama() -> None:
    qwen, llama = tiny("qwen2", **PLAIN), tiny("llama")
    shared = {n: x for n, x in qwen.tensors.items() if not n.endswith("bias")}
    zeros = {n: np.zeros_like(x) for n, x in qwen.tensors.items() if n.endswith("bias")}
    expected = type(llama)(llama.config, shared)(IDS).logits
    assert (Qwen2(qwen.config, {**shared, **zeros})(IDS).logits == expected).all()
    assert np.abs(qwen(IDS).logits - expected).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"use_sliding_window": False}, [None, None]),
        ({"max_window_layers": 0}, [3, 3]),
        ({"max_window_layers": 1}, [None, 3]),
        ({"max_window_layers": 28}, [None, None]),
        ({"sliding_window": None}, [None, None]),
        ({"layer_types": ["sliding_attention", "full_attention"]}, [3, None]),
    ],
)
def test_layers_with_the_window(changes: dict[str, Any], windows: list[int | None]) -> None:
    model = tiny("qwen2", **changes)
    assert [model.window(i) for i in range(2)] == windows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": False}, "set no window"),
        ({"use_mrope": True}, "use_mrope"),
        ({"attention_bias": False}, "attention_bias"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}}, "mrope"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("qwen2", **changes)
