"""Tasks as data: rows made by hand, answers read as people read them."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.data_room.test_data import word_tokenizer, write
from tlora_ref.data import encode_rows
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.tasks import chosen_option, cut, final_number, load_task, task_rows, tasks
from tlora_ref.tasks.task import KINDS


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Natalia sold 48/2 = 24 clips.\n#### 72", 72),
        ("it costs $1,234.50", Fraction("1234.5")),
        ("#### -3", -3),
        ("#### $18.", 18),
        ("the answer is 42.0", 42),
        ("5-3", 3),
        ("x2 is 7, not y9", 7),
        ("first 10, then 20", 20),
        ("#### 1,000,000 and no more than 5", 1_000_000),
        ("so 12%", 12),
        ("nothing", None),
        ("", None),
        ("12 apples ####", 12),
    ],
)
def test_the_final_number(text: str, number: Any) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("the correct answer is answer2", 1),
        ("Answer3.", 2),
        ("answer12 or answer1", 0),
        ("answer2, surely not answer1", 1),
        ("none of them", None),
    ],
)
def test_the_option_that_is_named(text: str, option: int | None) -> None:
    assert chosen_option(text, ["answer1", "answer2", "answer3"]) == option


def test_of_two_options_at_one_place_the_longer_is_meant() -> None:
    assert chosen_option("not entailment", ["not", "not entailment"]) == 1


def test_code_ends_at_the_first_stop() -> None:
    assert cut("    return 1\n\ndef next():\n    pass\nclass A", ["\nclass ", "\ndef "]) == "    return 1\n"
    assert cut("    return 1", ["\nclass "]) == "    return 1"


def test_there_are_tasks_of_all_five_kinds() -> None:
    assert {task.kind for task in tasks().values()} == set(KINDS)


def test_rows_of_every_kind_by_hand(tmp_path: Path) -> None:
    (row,) = task_rows(load_task("sst2"), write(tmp_path / "a.jsonl", {"sentence": "fine .", "label": 1}))
    assert row.values == {"prompt": "sst2 sentence: fine .", "completion": "positive"}
    assert row.extra["responses"] == ["negative", "positive"] and row.extra["label"] == 1
    named = {"instruction": "Which?", "input": "", "output": "the correct answer is answer2", "answer": "answer2"}
    (row,) = task_rows(load_task("openbookqa"), write(tmp_path / "b.jsonl", named))
    assert row.values == {"prompt": "Which?\n", "completion": named["output"]} and row.answer == "answer2"
    sums = {"question": "1+1?", "answer": "It is 2.\n#### 2"}
    (row,) = task_rows(load_task("gsm8k"), write(tmp_path / "c.jsonl", sums))
    assert row.values == {"prompt": "Question: 1+1?\nAnswer: ", "completion": "It is 2.\n#### 2"}
    code = {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": "    return 1\n"}
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps(code).encode()))
    (row,) = task_rows(load_task("humaneval"), tmp_path / "d.jsonl.gz")
    assert row.values["completion"] == "    return 1\n" and row.extra["id"] == "HumanEval/0"


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mood.yaml"
    file.write_text('kind: choice\nprompt: "{text}?"\nresponse: "{choice}!"\nchoices: [no, yes]\ngold: "{mood}"\n')
    # YAML's yes and no are booleans: the names of options are text
    with pytest.raises(ConfigError, match=r"choices is \[False, True\], expected a list of texts \(quote yes"):
        load_task(str(file))
    write(tmp_path / "m.jsonl", {"text": "t", "mood": "yes"})
    file.write_text('kind: choice\nprompt: "{text}?"\nresponse: "{choice}!"\nchoices: ["no", "yes"]\ngold: "{mood}"\n')
    (row,) = task_rows(load_task(str(file)), tmp_path / "m.jsonl")
    assert row.values == {"prompt": "t?", "completion": "yes!"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "is not a task"),
        ("kind: odd\nprompt: p\nresponse: r", "kind is 'odd'"),
        ("kind: chat\nprompt: p", "response"),
        ("kind: chat\nprompt: p\nresponse: r\nodd: 1", "odd"),
        ("kind: choice\nprompt: p\nresponse: r", "needs choices and gold"),
        ("{", "not valid YAML"),
        ("kind: choice\nprompt: p\nresponse: r\ngold: g\nchoices: 5", "choices is 5, expected a list of texts"),
        ("kind: choice\nprompt: p\nresponse: r\ngold: g\nchoices: yes_no", "choices is 'yes_no', expected a list"),
        ("kind: chat\nprompt: 5\nresponse: r", "prompt is 5, expected a text"),
        ("kind: chat\nprompt:\nresponse: r", "prompt is None, expected a text"),
    ],
)
def test_a_bad_task_file_is_an_error(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_task(str(tmp_path / "t.yaml"))


def test_bad_rows_and_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gsm8k"):
        load_task("gsm9k")
    with pytest.raises(DataError, match="line 1: task sst2 needs the field 'sentence'"):
        task_rows(load_task("sst2"), write(tmp_path / "a.jsonl", {"label": 1}))
    with pytest.raises(DataError, match='"7" is no option of sst2'):
        task_rows(load_task("sst2"), write(tmp_path / "b.jsonl", {"sentence": "x", "label": 7}))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        task_rows(load_task("sst2"), tmp_path / "cut.jsonl.gz")


def test_a_row_for_an_encoder_and_decoder_is_not_one_sequence(tmp_path: Path) -> None:
    """The prompt goes to the encoder with what the tokenizer puts around it, the response alone is labelled."""
    from tlora_ref.data import load_dataset

    rows = load_dataset(write(tmp_path / "a.jsonl", {"prompt": "Q one", "completion": "two"}))
    tokenizer = word_tokenizer(bos=True)
    words = {word: tokenizer.encode(word)[0] for word in ("Q", "one", "two", "<s>", "</s>")}
    (sample,), _ = encode_rows(rows, tokenizer, form="seq2seq")
    assert sample == {
        "input_ids": [words["<s>"], words["Q"], words["one"]],
        "labels": [words["two"], words["</s>"]],
    }
    (sample,), _ = encode_rows(rows, tokenizer, form="classes", class_names=["one", "two"])
    assert sample == {"input_ids": [words["<s>"], words["Q"], words["one"]], "labels": 1}
    with pytest.raises(DataError, match='"two" is no class of this model: expected yes, no'):
        encode_rows(rows, tokenizer, form="classes", class_names=["yes", "no"])


def test_classes_without_names_follow_the_task(tmp_path: Path) -> None:
    rows = task_rows(load_task("sst2"), write(tmp_path / "a.jsonl", {"sentence": "one", "label": 1}))
    (sample,), _ = encode_rows(rows, word_tokenizer(), form="classes", class_names=["LABEL_0", "LABEL_1"])
    assert sample["labels"] == 1
