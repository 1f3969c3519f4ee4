"""GPT-2: layouts and names of checkpoints, learned positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import tiny
from tlora_ref.checkpoint import load_model, save_model
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.gpt2 import GPT2

IDS = np.arange(1, 13)


def test_checkpoints_hold_the_transposed_weights_of_conv1d_alone() -> None:
    model = tiny("gpt2", tie_word_embeddings=False)
    written = GPT2.unsanitize(model.tensors, model.config)
    assert list(written) == list(model.tensors)
    for name, x in model.tensors.items():
        conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        assert (written[name] == (x.T if conv1d else x)).all()
    assert model.weight("transformer.h.0.attn.c_attn").shape == (48, 16)
    assert written["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("extras", [False, True])
def test_names_and_extras_of_older_checkpoints(prefix: str, extras: bool) -> None:
    model = tiny("gpt2")
    stored = {
        prefix + name.removeprefix("transformer."): x
        for name, x in GPT2.unsanitize(model.tensors, model.config).items()
    }
    if extras:
        stored["lm_head.weight"] = stored[f"{prefix}wte.weight"]
        stored[f"{prefix}h.0.attn.bias"] = np.tril(np.ones((24, 24)))[None, None]
        stored[f"{prefix}h.1.attn.masked_bias"] = np.array(-1e4)
    found = GPT2.sanitize(stored, model.config)
    assert set(found) == set(model.tensors)
    assert all((found[name] == x).all() for name, x in model.tensors.items())


def test_a_folder_is_turned_and_turned_back(tmp_path: Any) -> None:
    model = tiny("gpt2")
    save_model(model, tmp_path / "m", dtype="float64")
    again = load_model(tmp_path / "m")
    assert all((again.tensors[name] == x).all() for name, x in model.tensors.items())


def test_positions_end() -> None:
    model = tiny("gpt2")
    ids = np.ones(24, dtype=int)
    assert model(ids).logits.shape == (24, 31)
    with pytest.raises(DataError, match=r"25 tokens: .* 24 learned positions"):
        model(np.ones(25, dtype=int))
    with pytest.raises(DataError, match="n_positions"):
        model.generate(ids, max_new_tokens=2, eos_token_id=-1)
    padded = np.concatenate([np.zeros(8, dtype=int), ids[:20]])  # padding takes no position
    assert model(padded, np.repeat([0, 1], [8, 20])).logits.shape == (28, 31)


def test_attention_is_softmax_of_scaled_scores() -> None:
    # One layer and no MLP, written out from the definition.
    model = tiny("gpt2", n_layer=1, n_head=1)
    t = {n.removeprefix("transformer."): x for n, x in model.tensors.items()}
    t["h.0.mlp.c_proj.weight"] *= 0.0
    t["h.0.mlp.c_proj.bias"] *= 0.0

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return z * t[f"{name}.weight"] + t[f"{name}.bias"]

    x = t["wte.weight"][IDS] + t["wpe.weight"][:12]
    q, k, v = np.split(norm(x, "h.0.ln_1") @ t["h.0.attn.c_attn.weight"].T + t["h.0.attn.c_attn.bias"], 3, axis=1)
    p = np.where(np.tri(12) == 1, np.exp(q @ k.T / 4.0), 0.0)
    y = (p / p.sum(1, keepdims=True)) @ v @ t["h.0.attn.c_proj.weight"].T + t["h.0.attn.c_proj.bias"]
    expected = norm(x + y, "ln_f") @ t["wte.weight"].T
    np.testing.assert_allclose(model(IDS).logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"reorder_and_upcast_attn": True},
        {"scale_attn_weights": False},
        {"add_cross_attention": True},
        {"activation_function": "gelu_sideways"},
        {"n_embd": 18},
    ],
)
def test_refusals(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(changes))).replace("activation_function", "gelu_sideways")):
        tiny("gpt2", **changes)


def test_what_says_nothing_is_accepted() -> None:
    changes = {"n_ctx": 24, "scale_attn_weights": True, "summary_type": "cls_index", "n_inner": None}
    assert tiny("gpt2", **changes).config == tiny("gpt2").config
