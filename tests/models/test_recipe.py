"""The recipe of `models/`: what it takes from the raw files, on files made here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[2] / "models" / "recipe"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(RECIPE))
    import make_task
    import make_words_task
    import prepare_corpus
    import pretrain

    return SimpleNamespace(corpus=prepare_corpus, task=make_task, words=make_words_task, pretrain=pretrain)


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    answer = "Ann sold 48/2 = <<48/2=24>>24 clips.\nThat is $<<24*1,000=24,000>>24,000.\n#### 24,000"
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": " How many? ", "answer": answer}) + "\n", encoding="utf-8")
    return path


def openbookqa(tmp_path: Path, *rows: tuple[str, str]) -> Path:
    path = tmp_path / "openbookqa.json"
    instruction = (
        "Please choose the correct answer to the question: {}\n\n"
        "Answer1: red Answer2: blue Answer3: it shines. Answer4: green\n\nAnswer format: answer1/answer2"
    )
    path.write_text(json.dumps([{"instruction": instruction.format(stem), "answer": right} for stem, right in rows]))
    return path


def test_annotations_never_reach_the_corpus(recipe: SimpleNamespace, gsm8k: Path) -> None:
    assert recipe.corpus.gsm8k_documents(gsm8k) == [
        "How many?\nAnn sold 48/2 = 24 clips.\nThat is $24,000.\n#### 24,000",
    ]


def test_a_question_becomes_a_sentence_with_its_right_answer_once(recipe: SimpleNamespace, tmp_path: Path) -> None:
    path = openbookqa(tmp_path, ("The sky is", "answer2"), ("Of the sun", "answer3"), ("The sky is", "answer2"))
    assert recipe.corpus.openbookqa_documents(path) == ["The sky is blue.", "Of the sun it shines."]


def test_a_row_of_another_form_is_named(recipe: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps([{"instruction": "What is this?", "answer": "answer1"}]))
    with pytest.raises(ValueError, match="What is this"):
        recipe.corpus.openbookqa_documents(path)


def test_every_digit_is_a_token_and_text_survives(recipe: SimpleNamespace) -> None:
    texts = ["In 1234 years, 12345 cats = 9 × 99 µm."] * 50
    tokenizer = recipe.corpus.train_tokenizer(texts)
    encoding = tokenizer.encode(texts[0])
    assert encoding.tokens[0] == "<|bos|>"
    assert [token for token in encoding.tokens if any(c.isdigit() for c in token)] == list("123412345999")
    assert tokenizer.decode(encoding.ids) == texts[0]
    stream = recipe.corpus.token_stream(tokenizer, texts[:2])
    assert stream.tolist() == [*encoding.ids, tokenizer.token_to_id("<|eos|>")] * 2


@pytest.mark.parametrize(
    ("prompt", "call", "usable"),
    [
        ("Ann sold 48/2 = 24 clips.", "48/2=24", True),
        ("That is 1,000 + 2 = 1,002 in all.", "1000+2=1002", True),
        ("Ann sold half of 48, 24 clips.", "48/2=24", False),  # the 2 cannot be read
        ("That is 4 x (1+1) = 8.", "4*(1+1)=8", False),
        ("That is $2 * 3 = $6.", "2*3=$6", False),
        ("word " * 30 + "1+1=2", "1+1=2", False),
        ("1+1+1+1+1+1+1+1=8", "1+1+1+1+1+1+1+1=8", False),
    ],
)
def test_which_sentences_make_a_row(recipe: SimpleNamespace, prompt: str, call: str, usable: bool) -> None:
    assert recipe.task.is_usable(prompt, call) is usable


def test_a_row_is_the_sentence_and_its_annotation(recipe: SimpleNamespace, gsm8k: Path) -> None:
    assert recipe.task.calculator_rows(gsm8k) == [{"prompt": "Ann sold 48/2 = 24 clips.\n", "completion": "48/2=24"}]


def test_a_row_of_words_is_a_sentence_and_its_opening(recipe: SimpleNamespace, tmp_path: Path) -> None:
    path = openbookqa(tmp_path, ("The sky by day is", "answer2"), ("Of the sun", "answer1"), ("x " * 60, "answer1"))
    assert recipe.words.words_rows(path) == [{"prompt": "The sky by day is blue.\n", "completion": "The sky by"}]


def test_samples_are_whole_pieces(recipe: SimpleNamespace) -> None:
    assert recipe.pretrain.samples(np.arange(7, dtype=np.uint16), 3) == [
        {"input_ids": [0, 1, 2], "labels": [0, 1, 2]},
        {"input_ids": [3, 4, 5], "labels": [3, 4, 5]},
    ]


def test_unigram_loss_by_hand(recipe: SimpleNamespace) -> None:
    vocabulary = recipe.pretrain.CONFIG["vocab_size"]
    train, valid = np.array([5, 5, 5]), np.array([5, 6])
    expected = (-np.log(4 / (3 + vocabulary)) - np.log(1 / (3 + vocabulary))) / 2
    assert recipe.pretrain.unigram_loss(train, valid) == pytest.approx(expected, rel=1e-12)


def test_the_initial_model_follows_from_its_seed(recipe: SimpleNamespace) -> None:
    one, same, other = (recipe.pretrain.initial_model(seed) for seed in (0, 0, 1))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.array_equal(one.tensors[name], same.tensors[name])
    assert not np.array_equal(one.tensors[name], other.tensors[name])
    assert one.dtype == np.float32 and np.std(one.tensors[name]) == pytest.approx(0.02, rel=0.05)
    assert np.std(one.tensors["model.layers.0.mlp.down_proj.weight"]) == pytest.approx(0.02 / 8**0.5, rel=0.05)
