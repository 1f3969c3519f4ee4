"""What is ModernBERT's alone: its window on both sides, two rotary bases, its pooling and head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

from tests.families.common import check_finite_differences
from tests.families.encoders import bare, batch, classifier
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.modernbert import ModernBertConfig

IDS = np.arange(3, 15)
LOCAL = {"layer_types": ["sliding_attention"] * 2}


@pytest.mark.parametrize(("local_attention", "reach"), [(2, 1), (4, 2), (5, 2), (40, 11)])
def test_a_token_sees_half_the_window_on_either_side(local_attention: int, reach: int) -> None:
    model = bare("modernbert", **LOCAL, local_attention=local_attention)
    before = model(IDS).hidden.data
    for changed in (0, 6, 11):
        ids = IDS.copy()
        ids[changed] = 30
        differs = (model(ids).hidden.data != before).any(axis=1)
        assert (differs == (np.abs(np.arange(12) - changed) <= 2 * reach)).all()  # two layers


@pytest.mark.parametrize("same", [{"sliding_window": 2}, {"sliding_window": 2, "local_attention": 4}])
def test_the_window_of_one_side(same: dict[str, Any]) -> None:
    assert bare("modernbert", **{**LOCAL, "local_attention": None, **same}).config.local_attention == 4


def test_each_kind_of_layer_has_its_base() -> None:
    model = bare("modernbert")
    assert (model.config.layer_types, model.config.rope.theta, model.config.local_rope.theta) == (
        ("full_attention", "sliding_attention"),
        160_000.0,
        10_000.0,
    )
    for key in ("global_rope_theta", "local_rope_theta"):
        assert (bare("modernbert", **{key: 77.0})(IDS).hidden.data != model(IDS).hidden.data).any()


def test_biases_where_the_configuration_says_so() -> None:
    assert [n for n in classifier("modernbert").tensors if n.endswith("bias")] == ["classifier.bias"]
    flags = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
    model = classifier("modernbert", **flags)
    weights = {n.removesuffix(".weight") for n in model.tensors if n.endswith("weight") and "embeddings.tok" not in n}
    assert weights == {n.removesuffix(".bias") for n in model.tensors if n.endswith("bias")}
    check_finite_differences(model, batch("modernbert"))
    assert "model.layers.0.attn_norm.weight" not in model.tensors  # what enters the first layer is normed already


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_head_reads_the_first_token_or_the_mean_of_all(pooling: str) -> None:
    model, padded = classifier("modernbert", classifier_pooling=pooling), batch("modernbert")
    hidden, mask, t = model(**padded).hidden.data, padded["attention_mask"], model.tensors
    means = np.stack([x[keep == 1].mean(axis=0) for x, keep in zip(hidden, mask, strict=True)])
    read = hidden[:, 0] if pooling == "cls" else means
    dense = read @ t["head.dense.weight"].T
    dense = dense * scipy.special.ndtr(dense)
    normed = (dense - dense.mean(1, keepdims=True)) / np.sqrt(dense.var(1, keepdims=True) + 1e-5)
    logits = (normed * t["head.norm.weight"]) @ t["classifier.weight"].T + t["classifier.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-12)
    assert set(model.whole_head()) == {n for n in t if n.startswith(("head.", "classifier."))}
    check_finite_differences(model, padded)
    alone = model(padded["input_ids"][1, :6]).logits
    np.testing.assert_allclose(model(**padded).logits[1], alone, rtol=0, atol=1e-12)


def test_padding_on_the_left_changes_nothing_under_the_mean() -> None:
    model = classifier("modernbert", classifier_pooling="mean")
    padded = model([0, 0, 0, 0, *IDS], [0, 0, 0, 0, *[1] * 12]).logits
    np.testing.assert_allclose(padded, model(IDS).logits, rtol=0, atol=1e-12)


def test_both_spellings_of_the_configuration_agree() -> None:
    old = {
        "global_rope_theta": 500.0,
        "local_rope_theta": 20.0,
        "global_attn_every_n_layers": 2,
        "num_hidden_layers": 4,
    }
    new = {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
        **{"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 4},
    }
    assert ModernBertConfig.from_dict(old) == ModernBertConfig.from_dict(new)
    again = ModernBertConfig.from_dict(ModernBertConfig.from_dict(old).to_dict())
    assert again == ModernBertConfig.from_dict(new)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier_pooling": "max"}, "classifier_pooling"),
        ({"hidden_activation": "mish"}, "mish"),
        ({"classifier_activation": "mish"}, "mish"),
        ({"num_attention_heads": 3}, "even number"),
        ({"num_attention_heads": 16}, "even number"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_parameters"),
        ({"local_attention": 0}, "local_attention"),
        ({"local_attention": 6, "sliding_window": 6}, '6 is a window of 3 tokens .* but "sliding_window" says 6'),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bare("modernbert", **changes)
