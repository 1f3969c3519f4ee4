"""What is DeBERTa's alone: buckets, disentangled attention, projections with two inputs, its head."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special

import tlora_ref as tr
from tests.families.common import check_finite_differences
from tests.families.encoders import bare, batch, classifier
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.deberta_v2 import DebertaV2, log_buckets

IDS = [5, 9, 7, 20, 11, 6, 30, 3, 14, 5, 8]


@pytest.mark.parametrize(("n_buckets", "longest"), [(256, 512), (8, 64), (8, 9)])
def test_log_buckets(n_buckets: int, longest: int) -> None:
    distance = np.arange(-2 * longest, 2 * longest + 1)
    found = log_buckets(distance, n_buckets, longest)
    middle = n_buckets // 2
    for x, bucket in zip(distance.tolist(), found.tolist(), strict=True):
        if abs(x) <= middle:
            assert bucket == x
            continue
        # The smallest bucket b that ends, at middle * ((longest - 1) / middle)^((b - middle) / (middle - 1)), after x.
        end = (math.log(abs(x)) - math.log(middle)) / (math.log(longest - 1) - math.log(middle)) * (middle - 1)
        assert abs(bucket) == math.ceil(end - 1e-9) + middle and bucket * x > 0
    assert (np.diff(found) >= 0).all()
    assert found[distance == longest - 1] == n_buckets - 1


def test_scores_are_those_of_the_equation() -> None:
    # One layer, one head and no MLP, every score written out.
    model = bare("deberta-v2", num_hidden_layers=1, num_attention_heads=1)
    t = {name.removeprefix("encoder.layer.0."): x for name, x in model.tensors.items()}
    t["output.dense.weight"] *= 0.0
    t["output.dense.bias"] *= 0.0

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-7)
        return z * t[f"{name}.weight"] + t[f"{name}.bias"]

    def projected(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"attention.self.{name}_proj.weight"].T + t[f"attention.self.{name}_proj.bias"]

    x = norm(t["embeddings.word_embeddings.weight"][IDS], "embeddings.LayerNorm")
    P = norm(t["encoder.rel_embeddings.weight"], "encoder.LayerNorm")
    q, k, v = (projected(x, name) for name in ("query", "key", "value"))
    qr, kr = projected(P, "query"), projected(P, "key")
    score = np.zeros((len(IDS), len(IDS)))
    for i, j in np.ndindex(*score.shape):
        delta = min(max(int(log_buckets(np.array(i - j), 8, 64)) + 8, 0), 15)
        score[i, j] = (q[i] @ k[j] + q[i] @ kr[delta] + k[j] @ qr[delta]) / math.sqrt(3 * 16)
    y = scipy.special.softmax(score, axis=1) @ v
    y = y @ t["attention.output.dense.weight"].T + t["attention.output.dense.bias"]
    expected = norm(norm(x + y, "attention.output.LayerNorm"), "output.LayerNorm")
    np.testing.assert_allclose(model(IDS).hidden.data, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_only_distances_matter() -> None:
    # Without a position table, tokens moved as a block, padding before them, get the same hidden states.
    model = bare("deberta-v2")
    alone = model(IDS).hidden.data
    moved = model([0, 0, *IDS], [0, 0, *[1] * len(IDS)]).hidden.data
    np.testing.assert_allclose(moved[2:], alone, rtol=0, atol=1e-13)
    assert model([5] * 100).hidden.shape == (100, 16)  # beyond max_position_embeddings: nothing ends there


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_att_type": "c2p", "share_att_key": False},
        {"pos_att_type": "p2c", "position_buckets": -1, "max_relative_positions": 3},
        {"relative_attention": False, "position_biased_input": True, "norm_rel_ebd": "none", "type_vocab_size": 2},
    ],
)
def test_gradients_of_the_variants(changes: dict[str, Any]) -> None:
    check_finite_differences(classifier("deberta-v2", **changes), batch("deberta-v2"))


def test_the_projections_of_queries_and_keys_have_two_inputs() -> None:
    """Alg. 1, line 9 for a module that is used twice: C is over the hidden states and the relative positions."""
    model = classifier("deberta-v2")
    sample = {"input_ids": IDS, "labels": 1}
    seen: dict[str, list[np.ndarray]] = {}
    model.observing(lambda module, x: seen.setdefault(module, []).append(x.reshape(-1, x.shape[-1])))(IDS)
    stats = tr.calibrate(model, [sample])
    for layer in (0, 1):
        name = f"deberta.encoder.layer.{layer}.attention.self"
        (x,) = seen[f"{name}.value_proj"]
        np.testing.assert_allclose(stats.covariance[f"{name}.value_proj"], x.T @ x, rtol=1e-12, atol=1e-12)
        for module in ("query_proj", "key_proj"):
            same, P = seen[f"{name}.{module}"]
            assert same is x or (same == x).all()
            assert P.shape == (16, 16)  # 2 k positions
            np.testing.assert_allclose(stats.covariance[f"{name}.{module}"], x.T @ x + P.T @ P, rtol=1e-12, atol=1e-12)


def test_the_head_reads_the_first_token_through_its_pooler() -> None:
    model, padded = classifier("deberta-v2"), batch("deberta-v2")
    first, t = model(**padded).hidden.data[:, 0], model.tensors
    dense = first @ t["pooler.dense.weight"].T + t["pooler.dense.bias"]
    logits = (dense * scipy.special.ndtr(dense)) @ t["classifier.weight"].T + t["classifier.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-13)
    assert set(model.whole_head()) == {
        f"{m}.{part}" for m in ("pooler.dense", "classifier") for part in ("weight", "bias")
    }


def test_a_position_table_that_no_model_reads_is_left_out() -> None:
    model = bare("deberta-v2")
    stored = {**model.tensors, "deberta.embeddings.position_embeddings.weight": np.ones((64, 16))}
    assert set(DebertaV2.sanitize(stored, model.config)) == set(model.tensors)
    assert "embeddings.position_embeddings.weight" in bare("deberta-v2", position_biased_input=True).tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size"),
        ({"embedding_size": 8}, "embedding_size"),
        ({"pooler_hidden_size": 8}, "pooler_hidden_size"),
        ({"attention_head_size": 8}, "attention_head_size"),
        ({"pos_att_type": "p2p|c2p"}, "pos_att_type"),
        ({"pos_att_type": ["c2p", "c2p"]}, "pos_att_type"),
        ({"norm_rel_ebd": "rms"}, "norm_rel_ebd"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_attention_heads": 3}, "not a multiple"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bare("deberta-v2", **changes)
