"""Mistral: the sliding window."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.common import tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.mistral import MistralConfig

IDS = np.arange(1, 13)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_token_reaches_as_far_as_its_window_times_the_layers(window: int) -> None:
    # Each layer moves information by window - 1 tokens.
    model = tiny("mistral", sliding_window=window)
    reach = 2 * (window - 1)
    changed = IDS.copy()
    changed[0] = 30
    differs = (model(IDS).logits != model(changed).logits).any(axis=1)
    assert differs[: reach + 1].all()
    assert not differs[reach + 1 :].any()


@pytest.mark.parametrize("window", [None, 12, 100])
def test_a_window_as_long_as_the_text_makes_it_llama(window: int | None) -> None:
    llama = tiny("llama")
    assert (tiny("mistral", sliding_window=window)(IDS).logits == llama(IDS).logits).all()
    assert (tiny("mistral", sliding_window=11)(IDS).logits != llama(IDS).logits).any()


def test_defaults_are_those_of_transformers() -> None:
    values = {"vocab_size": 31, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 1}
    config = MistralConfig.from_dict({**values, "num_attention_heads": 16})
    assert (config.sliding_window, config.num_key_value_heads, config.eos_token_id) == (4096, 8, 2)
    explicit = {"num_attention_heads": 16, "num_key_value_heads": None, "sliding_window": None}
    config = MistralConfig.from_dict({**values, **explicit})
    assert (config.sliding_window, config.num_key_value_heads) == (None, 16)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="sliding_window"):
        tiny("mistral", sliding_window=0)
    with pytest.raises(ConfigError, match="layer_types"):
        tiny("mistral", layer_types=["full_attention", "full_attention"])
    with pytest.raises(ConfigError, match="attention_bias"):
        tiny("mistral", attention_bias=True)
