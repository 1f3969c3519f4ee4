"""What is DistilBERT's alone: no token types, its head, its names."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from tests.families.encoders import bare, batch, classifier
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.distilbert import DistilBert, DistilBertConfig


def test_no_token_types() -> None:
    model = bare("distilbert")
    assert not any("token_type" in name for name in model.tensors)
    with pytest.raises(ConfigError, match="token_type_ids means nothing"):
        model([5, 9], token_type_ids=[0, 0])


def test_the_longest_sequence() -> None:
    model = bare("distilbert", max_position_embeddings=6)
    assert model([5] * 6).hidden.shape == (6, 16)
    with pytest.raises(DataError, match=r"7 tokens.*6 learned positions"):
        model([5] * 7)


def test_the_head_reads_the_first_token() -> None:
    model, padded = classifier("distilbert"), batch("distilbert")
    first, t = model(**padded).hidden.data[:, 0], model.tensors
    dense = np.maximum(first @ t["pre_classifier.weight"].T + t["pre_classifier.bias"], 0.0)
    logits = dense @ t["classifier.weight"].T + t["classifier.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-13)


def test_published_size() -> None:
    values = {
        **{"activation": "gelu", "architectures": ["DistilBertModel"], "attention_dropout": 0.1, "dim": 768},
        **{"dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512},
        **{"model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1},
        **{"seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522},
    }
    shapes = DistilBert.tensor_shapes(DistilBertConfig.from_dict(values))
    assert sum(prod(shape) for shape in shapes.values()) == 66_362_880  # distilbert-base-uncased


def test_refusals() -> None:
    for changes, message in (({"activation": "mish"}, "mish"), ({"n_heads": 3}, "not a multiple")):
        with pytest.raises(ConfigError, match=message):
            bare("distilbert", **changes)
