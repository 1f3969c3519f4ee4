"""Rows that are longer than the context: skipped, cut, or used in parts. Ids are written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from tests.data_room.test_data import WORDS, _row, word_tokenizer
from tlora_ref.data import Tokenizer, encode_row, encode_rows
from tlora_ref.errors import ConfigError, DataError

OUT = -100
ID = {word: i for i, word in enumerate(WORDS)}
ONE, TWO, END = ID["one"], ID["two"], ID["</s>"]
PAIR = _row({"prompt": "one one one", "completion": "two one two"})  # one one one | two one two </s>
TEXT = _row({"text": "one two one two one"})


def test_a_prompt_and_its_response_are_cut_and_the_lost_end_is_said() -> None:
    samples, report = encode_rows([PAIR], word_tokenizer(), max_length=5, too_long="truncate")
    assert samples == [{"input_ids": [ONE] * 3 + [TWO, ONE], "labels": [OUT] * 3 + [TWO, ONE]}]
    assert (
        "1 row(s) cut to 5 tokens" in report.lines()[0] and "lost scored tokens and the end token" in report.lines()[1]
    )
    samples, report = encode_rows([PAIR], word_tokenizer(), max_length=7, too_long="truncate")
    assert report.lines() == [] and samples[0]["labels"][-1] == END
    with pytest.raises(DataError, match=r"cut to 3 tokens.*no labelled token"):  # a prompt alone teaches nothing
        encode_rows([PAIR], word_tokenizer(), max_length=3, too_long="truncate")
    tail = _row({"input_ids": [1, 2, 3, 4], "labels": [OUT, 2, 3, OUT]})  # what is cut was not scored
    samples, report = encode_rows([tail], None, max_length=3, too_long="truncate")
    assert samples[0]["labels"] == [OUT, 2, 3] and len(report.lines()) == 1


def test_parts_score_every_token_once_and_none_without_one_before_it() -> None:
    whole = [ONE, TWO, ONE, TWO, ONE, END]
    samples, report = encode_rows([TEXT], word_tokenizer(), max_length=3, too_long="chunk")
    assert samples == [
        {"input_ids": [ONE, TWO, ONE], "labels": [ONE, TWO, ONE]},
        {"input_ids": [ONE, TWO, ONE], "labels": [OUT, TWO, ONE]},
        {"input_ids": [ONE, END], "labels": [OUT, END]},
    ]
    assert [label for s in samples for label in s["labels"][1:]] == whole[1:]
    assert report.samples == 3 and report.used == 1 and "cut into parts of at most 3 tokens" in report.lines()[0]
    samples, _ = encode_rows([PAIR], word_tokenizer(), max_length=3, too_long="chunk")
    assert samples == [  # the first part holds the prompt alone and is left out
        {"input_ids": [ONE, TWO, ONE], "labels": [OUT, TWO, ONE]},
        {"input_ids": [ONE, TWO, END], "labels": [OUT, TWO, END]},
    ]


@pytest.mark.parametrize("max_length", range(2, 12))
def test_parts_of_a_conversation_score_what_it_scores(max_length: int) -> None:
    said = [("user", "one"), ("assistant", "two one"), ("user", "one one"), ("assistant", "two")]
    row = _row({"messages": [{"role": role, "content": content} for role, content in said]})
    tokenizer = word_tokenizer()
    (whole,), _ = encode_rows([row], tokenizer)
    samples, report = encode_rows([row], tokenizer, max_length=max_length, too_long="chunk")
    assert all(2 <= len(s["input_ids"]) <= max_length for s in samples)
    assert all(s["labels"][0] == OUT for s in samples)
    scored = [label for label in whole["labels"][1:] if label != OUT]
    assert [label for s in samples for label in s["labels"] if label != OUT] == scored and not report.end_lost


def test_an_encoder_keeps_what_ends_its_prompt() -> None:
    backend = Backend(models.WordLevel(ID, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", ID["<s>"]), ("</s>", END)])
    tokenizer = Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"}, None)
    options: dict[str, Any] = {"max_length": 4, "too_long": "truncate"}
    row = _row({"prompt": "one two one two", "completion": "one"})
    found = encode_row(row, tokenizer, form="classes", class_names=["one", "two"], **options)
    assert found.sample == {"input_ids": [ID["<s>"], ONE, TWO, END], "labels": 0} and not found.end_lost
    row = _row({"prompt": "one two one two", "completion": "one two one two"})
    found = encode_row(row, tokenizer, form="seq2seq", **options)
    assert found.sample == {"input_ids": [ID["<s>"], ONE, TWO, END], "labels": [ONE, TWO, ONE, TWO]} and found.end_lost


def test_what_is_no_way_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'drop'.*did you mean skip"):
        encode_rows([TEXT], word_tokenizer(), too_long="drop")
    for form, what in (("seq2seq", "an answer to a prompt"), ("classes", "one class")):
        with pytest.raises(ConfigError, match=what):
            encode_rows([PAIR], word_tokenizer(), too_long="chunk", form=form)
