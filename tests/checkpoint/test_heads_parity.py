"""Encoders as they are published, with the head of another task; and the head that a bare one gets here, in PEFT."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from tests.families.make_tiny import DISENTANGLED  # noqa: E402
from tests.parity.float64 import true_float64  # noqa: E402 (needs torch)
from tlora_ref.adapter import allocate, initialize  # noqa: E402
from tlora_ref.checkpoint import load_model, save_model, save_peft  # noqa: E402
from tlora_ref.pipeline import load_adapted  # noqa: E402
from tlora_ref.training import train  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::FutureWarning")]

IDS = np.random.default_rng(0).integers(3, 31, (2, 9))
SHARP = {"rtol": 0.0, "atol": 1e-10}
BERT: dict[str, Any] = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 4, "max_position_embeddings": 24}
DISTIL: dict[str, Any] = {"vocab_size": 31, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4}
#: architecture -> (configuration, modules of its head)
PUBLISHED: dict[str, tuple[Any, str]] = {
    "BertForMaskedLM": (lambda: transformers.BertConfig(**BERT), "cls"),
    "BertForPreTraining": (lambda: transformers.BertConfig(**BERT), "cls"),
    "BertForQuestionAnswering": (lambda: transformers.BertConfig(**BERT), "qa_outputs"),
    "BertForTokenClassification": (lambda: transformers.BertConfig(**BERT), "classifier"),
    "RobertaForMaskedLM": (lambda: transformers.RobertaConfig(**BERT, pad_token_id=1), "lm_head"),
    "DistilBertForMaskedLM": (lambda: transformers.DistilBertConfig(**DISTIL), "vocab_layer_norm, vocab_"),
    "ElectraForPreTraining": (lambda: transformers.ElectraConfig(**BERT, embedding_size=12), "discriminator_pred"),
    "ElectraForMaskedLM": (lambda: transformers.ElectraConfig(**BERT, embedding_size=12), "generator_lm_head, gen"),
    "DebertaV2ForMaskedLM": (lambda: transformers.DebertaV2Config(**BERT, **DISENTANGLED), "cls"),
    "ModernBertForMaskedLM": (lambda: transformers.ModernBertConfig(**BERT, pad_token_id=0), "decoder, head"),
}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with true_float64():
        yield


def published(folder: Path, architecture: str) -> Path:
    """A tiny model of that architecture with random weights; BERT's norms under the names that TensorFlow gave."""
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(PUBLISHED[architecture][0]()).double()
    for parameter in model.parameters():
        parameter.data.normal_(mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    model.save_pretrained(folder)
    if architecture in ("BertForMaskedLM", "BertForPreTraining"):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        tensors = load_file(folder / "model.safetensors")
        for new, name in old.items():
            tensors = {key.replace(new, name): x for key, x in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_the_encoder_is_taken_and_the_head_named(tmp_path: Path, architecture: str) -> None:
    folder = published(tmp_path / "m", architecture)
    theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    with pytest.warns(
        UserWarning, match=rf"{architecture}: its encoder is read, and its head \({PUBLISHED[architecture][1]}"
    ):
        mine = load_model(folder)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(IDS)).last_hidden_state.numpy()
    np.testing.assert_allclose(mine(IDS).hidden.data, wanted, **SHARP)
    save_model(mine, tmp_path / "bare", "float64", source=folder)
    again = transformers.AutoModel.from_pretrained(tmp_path / "bare", dtype=torch.float64).eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(input_ids=torch.tensor(IDS)).last_hidden_state.numpy(), wanted, **SHARP)
    assert again.config.architectures == [type(theirs).__name__]


@pytest.mark.filterwarnings("ignore:.*its encoder is read")
@pytest.mark.parametrize("architecture", PUBLISHED)
def test_a_fresh_head_is_trained_and_is_peft_s_too(tmp_path: Path, architecture: str) -> None:
    folder, labels = published(tmp_path / "m", architecture), ("bad", "so-so", "good")
    model = load_model(folder, labels=labels, seed=3)
    assert model.labels == labels and model.fresh and model.fresh <= set(model.whole_head())
    shapes = model.shapes()
    adapter = initialize(model, None, allocate(dict.fromkeys(shapes, 1.0), shapes, 2, 3), init="w-svd", seed=3)
    rows = [{"input_ids": row.tolist(), "labels": i} for i, row in enumerate(IDS)]
    also = tuple(sorted(model.fresh))
    train(model, adapter, rows, steps=3, batch_size=2, lr=0.05, also=also)
    save_peft(adapter, tmp_path / "a")
    mine, _ = load_adapted(folder, tmp_path / "a")
    assert mine.labels == labels
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, dtype=torch.float64, ignore_mismatched_sizes=True
    )
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "a").eval()
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(mine(IDS).logits, wanted, **SHARP)
    assert np.abs(load_model(folder, labels=labels, seed=3)(IDS).logits - wanted).max() > 0.01


def test_deberta_v3_names_no_architecture(tmp_path: Path) -> None:
    """As Microsoft published it: the heads of its pre-training under names that no class of transformers has."""
    folder = published(tmp_path / "m", "DebertaV2ForMaskedLM")
    values = json.loads((folder / "config.json").read_text())
    del values["architectures"]
    (folder / "config.json").write_text(json.dumps(values))
    tensors = {key: x for key, x in load_file(folder / "model.safetensors").items() if key.startswith("deberta.")}
    heads = ("lm_predictions.lm_head.dense.weight", "mask_predictions.classifier.weight")
    save_file({**tensors, **{name: torch.ones(16, 16) for name in heads}}, folder / "model.safetensors")
    theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64).eval()
    with pytest.warns(UserWarning, match=r"its encoder is read, and its head \(lm_predictions, mask_predictions\)"):
        mine = load_model(folder)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor(IDS)).last_hidden_state.numpy()
    np.testing.assert_allclose(mine(IDS).hidden.data, wanted, **SHARP)
    save_file(tensors, folder / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(folder)


@pytest.mark.filterwarnings("ignore:.*its encoder is read")
def test_modernbert_s_classifier_begins_with_the_head_of_its_pretraining(tmp_path: Path) -> None:
    folder = published(tmp_path / "m", "ModernBertForMaskedLM")
    model = load_model(folder, labels=("a", "b"), seed=3)
    assert model.fresh == {"classifier.weight", "classifier.bias"}
    stored = load_file(folder / "model.safetensors")
    for name in ("head.dense.weight", "head.norm.weight"):
        assert (model.tensors[name] == stored[name].numpy()).all()
    bare = load_model(folder)
    save_model(bare, tmp_path / "bare", "float64")
    without = load_model(tmp_path / "bare", labels=("a", "b"), seed=3)
    assert without.fresh == {*model.fresh, "head.dense.weight", "head.norm.weight"}
    assert (without.tensors["head.norm.weight"] == 1.0).all()
    assert 0.5 < without.tensors["head.dense.weight"].std() / (0.02 / np.sqrt(2 * 2)) < 1.5
