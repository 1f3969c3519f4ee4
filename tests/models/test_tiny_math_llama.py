"""The shipped model and its task: whole, of the size the card says, and a language model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tlora_ref.data import Tokenizer, load_dataset
from tlora_ref.transformer import Model

FOLDER = Path(__file__).resolve().parents[2] / "models" / "tiny-math-llama"
SPLITS = {"train": 600, "valid": 100, "test": 200}


@pytest.fixture(scope="module")
def model() -> Model:
    return tr.load_model(FOLDER, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tr.load_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[str]]:
    return {split: [row.values["prompt"] for row in load_dataset(FOLDER / "task", split)] for split in SPLITS}


def test_its_size_is_what_the_card_says(model: Model) -> None:
    assert 1e6 < (FOLDER / "model.safetensors").stat().st_size < 4e6
    assert model.parameter_count() == json.loads((FOLDER / "pretraining.json").read_text())["parameters"] == 857216
    assert "857,216" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_card_quotes_the_recorded_losses() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    recorded = json.loads((FOLDER / "pretraining.json").read_text())
    for key in ("valid_loss", "unigram_valid_loss"):
        assert f"{recorded[key]:.3f}" in card, key


def test_task_rows_are_there_and_held_out(prompts: dict[str, list[str]]) -> None:
    assert {split: len(set(texts)) for split, texts in prompts.items()} == SPLITS
    assert not (set(prompts["valid"]) | set(prompts["test"])) & set(prompts["train"])


def test_unseen_text_is_far_more_likely_than_under_a_unigram_model(
    model: Model, tokenizer: Tokenizer, prompts: dict[str, list[str]]
) -> None:
    encoded = [tokenizer.encode(text, add_special_tokens=True) for text in prompts["test"]]
    targets = np.concatenate([ids[1:] for ids in encoded])
    # The best unigram model there is: the frequencies of the very tokens it is scored on.
    counts = np.bincount(targets)
    unigram = -np.log(counts[targets] / len(targets)).mean()
    loss = tr.evaluate(model, [{"input_ids": ids, "labels": ids} for ids in encoded], batch_size=32).loss
    assert loss < unigram - 1.5


def test_it_writes_words(model: Model, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Tom has 3 boxes of", add_special_tokens=True)
    written = tokenizer.decode(model.generate(ids, max_new_tokens=60).tolist())
    known = set((FOLDER / "task" / "train.jsonl").read_text(encoding="utf-8").lower().split())
    words = [word.strip(".,?!").lower() for word in written.split() if word.strip(".,?!").isalpha()]
    assert len(words) >= 10 and sum(word in known for word in words) > 0.6 * len(words)
