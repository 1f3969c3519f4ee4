"""Qwen3: width of heads apart from the model's, and normalised queries and keys."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.common import CONFIGS, tiny
from tlora_ref.transformer.qwen3 import Qwen3Config

IDS = np.arange(1, 13)


def test_head_dim_is_its_own() -> None:
    shapes = tiny("qwen3").shapes()
    assert shapes["model.layers.0.self_attn.q_proj"] == (24, 16)
    assert shapes["model.layers.0.self_attn.k_proj"] == (12, 16)
    assert shapes["model.layers.0.self_attn.o_proj"] == (16, 24)
    without = {k: v for k, v in CONFIGS["qwen3"].items() if k != "head_dim"}
    assert Qwen3Config.from_dict(without).head_dim == 128


@pytest.mark.parametrize("projection", ["q_proj", "k_proj"])
def test_the_size_of_queries_and_keys_is_normalised_away(projection: str) -> None:
    model = tiny("qwen3", rms_norm_eps=1e-30)
    name = f"model.layers.0.self_attn.{projection}.weight"
    scaled = type(model)(model.config, {**model.tensors, name: 7.0 * model.tensors[name]})
    np.testing.assert_allclose(scaled(IDS).logits, model(IDS).logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", ["q_norm", "k_norm"])
def test_the_norms_weights_scale_the_scores(norm: str) -> None:
    # A norm of zeros makes every score 0, so that each token sees all others alike: what it sees of the rest of the
    # text no longer depends on its own query.
    model = tiny("qwen3", num_hidden_layers=1)
    name = f"model.layers.0.self_attn.{norm}.weight"
    flat = type(model)(model.config, {**model.tensors, name: np.zeros(6)})
    swapped = IDS.copy()
    swapped[[2, 7]] = swapped[[7, 2]]  # with equal weights the order of earlier tokens is invisible to the last
    np.testing.assert_allclose(flat(swapped).logits[-1], flat(IDS).logits[-1], rtol=0, atol=1e-12)
    assert np.abs(model(swapped).logits[-1] - model(IDS).logits[-1]).max() > 1e-3
