"""What is DistilBERT's alone: no token types, its head, its names."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.encoders import bare, batch, classifier
from tlora_ref.errors import ConfigError, DataError


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


def test_refusals() -> None:
    for changes, message in (({"activation": "mish"}, "mish"), ({"n_heads": 3}, "not a multiple")):
        with pytest.raises(ConfigError, match=message):
            bare("distilbert", **changes)
