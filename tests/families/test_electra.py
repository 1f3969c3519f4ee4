"""What is ELECTRA's alone: embeddings of their own width, its head."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from tests.families.encoders import bare, batch, classifier
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.electra import Electra, ElectraConfig


def test_embeddings_are_projected_where_they_are_narrower() -> None:
    model = bare("electra")
    assert model.tensors["embeddings.word_embeddings.weight"].shape == (31, 12)
    assert model.tensors["embeddings.LayerNorm.weight"].shape == (12,)
    assert model.tensors["embeddings_project.weight"].shape == (16, 12)
    assert "embeddings_project.weight" not in bare("electra", embedding_size=16).tensors
    assert "embeddings_project" not in model.shapes()
    assert list(model.shapes("embeddings_project")) == ["embeddings_project"]


def test_as_wide_as_its_layers_it_is_bert() -> None:
    electra, bert = bare("electra", embedding_size=16), bare("bert")
    shared = {name: bert.tensors[name] for name in electra.tensors}
    assert set(bert.tensors) - set(shared) == {"pooler.dense.weight", "pooler.dense.bias"}
    ids = [5, 9, 7, 20]
    assert (Electra(electra.config, shared)(ids).hidden.data == bert(ids).hidden.data).all()


def test_the_head_reads_the_first_token() -> None:
    model, padded = classifier("electra"), batch("electra")
    first, t = model(**padded).hidden.data[:, 0], model.tensors
    dense = first @ t["classifier.dense.weight"].T + t["classifier.dense.bias"]
    logits = (dense * scipy.special.ndtr(dense)) @ t["classifier.out_proj.weight"].T + t["classifier.out_proj.bias"]
    np.testing.assert_allclose(model(**padded).logits, logits, rtol=0, atol=1e-13)
    assert set(model.whole_head()) == {name for name in t if name.startswith("classifier.")}


def test_defaults_and_refusals() -> None:
    config = ElectraConfig.from_dict({})
    assert (config.embedding_size, config.hidden_size, config.num_attention_heads) == (128, 256, 4)
    assert (config.architecture, config.pad_token_id) == ("ElectraModel", 0)
    for changes, message in (({"embedding_size": 0}, "embedding_size"), ({"hidden_act": "mish"}, "mish")):
        with pytest.raises(ConfigError, match=message):
            bare("electra", **changes)
