"""GPT-NeoX: partial rotation, parallel residual, the layout of the fused projection, names of checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.gpt_neox import GPTNeoX

IDS = np.arange(1, 13)


def test_heads_lie_one_after_the_other_in_the_fused_projection() -> None:
    # Reordering whole heads (their q, k and v together, and the columns of `dense`) changes nothing.
    model = tiny("gpt_neox")
    tensors, order = dict(model.tensors), [2, 0, 3, 1]
    for i in range(2):
        layer = f"gpt_neox.layers.{i}.attention"
        for part in ("weight", "bias"):
            fused = tensors[f"{layer}.query_key_value.{part}"]
            tensors[f"{layer}.query_key_value.{part}"] = fused.reshape(4, 12, -1)[order].reshape(fused.shape)
        dense = tensors[f"{layer}.dense.weight"]
        tensors[f"{layer}.dense.weight"] = dense.reshape(16, 4, 4)[:, order].reshape(16, 16)
    again = GPTNeoX(model.config, tensors)(IDS).logits
    np.testing.assert_allclose(again, model(IDS).logits, rtol=0, atol=1e-12)


def test_each_head_is_cut_into_q_k_v() -> None:
    # With the values' rows of the fused projection at zero, attention adds nothing but the bias of `dense`.
    model = tiny("gpt_neox", num_hidden_layers=1, use_parallel_residual=False)
    tensors = dict(model.tensors)
    for part in ("weight", "bias"):
        fused = tensors[f"gpt_neox.layers.0.attention.query_key_value.{part}"].reshape(4, 12, -1).copy()
        fused[:, 8:] = 0.0  # q 0:4, k 4:8, v 8:12 of each head
        tensors[f"gpt_neox.layers.0.attention.query_key_value.{part}"] = fused.reshape(48, -1).squeeze()
    silent = GPTNeoX(model.config, tensors)
    alone = silent(IDS[-1:]).logits[-1]
    np.testing.assert_allclose(silent(IDS).logits[-1], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("part", "d_rotary"), [(0.5, 2), (1.0, 4)])
def test_only_the_first_channels_turn(part: float, d_rotary: int) -> None:
    assert tiny("gpt_neox", rotary_pct=part).config.d_rotary == d_rotary


def test_parallel_and_sequential_differ() -> None:
    parallel, sequential = tiny("gpt_neox"), tiny("gpt_neox", use_parallel_residual=False)
    assert np.abs(parallel(IDS).logits - sequential(IDS).logits).max() > 0.1


@pytest.mark.parametrize("output", ["embed_out.weight", "lm_head.weight"])
def test_names_and_buffers_of_checkpoints(output: str) -> None:
    model = tiny("gpt_neox")
    stored = {output if n == "lm_head.weight" else n: x for n, x in model.tensors.items()}
    stored["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 4, 4))
    stored["gpt_neox.layers.0.attention.masked_bias"] = np.array(-1e9)
    stored["gpt_neox.layers.1.attention.rotary_emb.inv_freq"] = np.ones(1)
    assert set(GPTNeoX.sanitize(stored, model.config)) == set(model.tensors)


@pytest.mark.parametrize(
    "same",
    [
        {"rotary_pct": 0.5, "rotary_emb_base": 10000},
        {"partial_rotary_factor": 0.5, "rope_theta": 10000.0},
        {
            "rotary_pct": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ],
)
def test_spellings_of_the_rotary_settings(same: dict[str, Any]) -> None:
    assert tiny("gpt_neox", **same).config == tiny("gpt_neox").config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary_pct": 0.25}, "rotary_pct.*even number"),
        ({"rotary_pct": 1.5}, "rotary_pct"),
        ({"partial_rotary_factor": 1.0}, "more than once, and differently"),
        ({"rotary_emb_base": 10000, "rope_theta": 500.0}, "rotary_emb_base"),
        (
            {"rope_theta": 500.0},
            '"rope_theta" is 500.0, which transformers does not read.*10000. Call it "rotary_emb_base"',
        ),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, "which transformers does not read"),
        (
            {"rotary_pct": None, "partial_rotary_factor": 0.5},
            '"partial_rotary_factor".*it takes 0.25. Call it "rotary_pct"',
        ),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, '"su" is not implemented'),
        ({"hidden_size": 18}, "hidden_size"),
        ({"hidden_act": "mish"}, "mish"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("gpt_neox", **changes)
