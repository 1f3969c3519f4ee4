"""What is RoBERTa's alone: its positions, its head, the poolers that files have."""

from __future__ import annotations

import numpy as np
import pytest

from tests.families.encoders import CONFIGS, bare, batch, classifier
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer import family
from tlora_ref.transformer.roberta import RobertaClassifier, RobertaConfig

PAD = CONFIGS["roberta"]["pad_token_id"]


def test_positions_begin_after_the_padding_token() -> None:
    model = bare("roberta")
    ids = np.array([[5, 9, 7, PAD, PAD], [PAD, PAD, 5, 9, 7], [5, PAD, 9, PAD, 7]])
    assert PAD == 2
    assert model.positions(ids).tolist() == [[3, 4, 5, 2, 2], [2, 2, 3, 4, 5], [3, 2, 4, 2, 5]]


def test_padding_on_the_left_changes_nothing() -> None:
    # Unlike BERT's, positions count tokens: wherever these stand, they get the same.
    model = bare("roberta")
    alone = model([5, 9, 7]).hidden.data
    padded = model([PAD, PAD, 5, 9, 7], [0, 0, 1, 1, 1]).hidden.data
    np.testing.assert_allclose(padded[2:], alone, rtol=0, atol=1e-13)


def test_the_longest_sequence() -> None:
    model = bare("roberta", max_position_embeddings=8)
    assert model([5] * 5).hidden.shape == (5, 16)  # positions 3 to 7
    with pytest.raises(DataError, match=r"6 tokens needs position 8.*8 learned positions"):
        model([5] * 6)


def test_the_head_reads_the_first_token() -> None:
    model, padded = classifier("roberta"), batch("roberta")
    first, t = model(**padded).hidden.data[:, 0], model.tensors
    dense = np.tanh(first @ t["classifier.dense.weight"].T + t["classifier.dense.bias"])
    logits = dense @ t["classifier.out_proj.weight"].T + t["classifier.out_proj.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-13)


def test_a_pooler_that_no_classifier_uses_is_left_out() -> None:
    model = classifier("roberta")
    pooler = {"roberta.pooler.dense.weight": np.ones((16, 16)), "roberta.pooler.dense.bias": np.ones(16)}
    assert set(RobertaClassifier.sanitize({**model.tensors, **pooler}, model.config)) == set(model.tensors)
    assert "pooler.dense.weight" in bare("roberta").tensors


def test_defaults_and_refusals() -> None:
    config = RobertaConfig.from_dict({})
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (50265, 1, 0, 2)
    assert (config.model_type, config.architecture) == ("roberta", "RobertaModel")
    with pytest.raises(ConfigError, match="positions of a roberta model count from it"):
        RobertaConfig.from_dict({"pad_token_id": None})
    with pytest.raises(ConfigError, match="'xlm-roberta' is not supported"):
        family("xlm-roberta")
