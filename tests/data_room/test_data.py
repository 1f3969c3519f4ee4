"""Rows, templates, tokens, batches: against hand-written tokens, and every row that cannot be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from tlora_ref.data import (
    Tokenizer,
    batches,
    choose_samples,
    encode_prompt,
    encode_rows,
    file_sha256,
    load_dataset,
    load_tokenizer,
    pad_batch,
    response_text,
)
from tlora_ref.errors import ConfigError, DataError

WORDS = ["<s>", "</s>", "<pad>", "?", "Q", "A", "one", "two", "three", "user", "assistant", "system", ":", "\n"]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def word_tokenizer(bos: bool = False, chat: str | None = CHAT) -> Tokenizer:
    """A tokenizer of whole words, so that expected ids can be written by hand."""
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"}
    return Tokenizer(backend, config, chat)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_every_form_is_read_and_only_the_response_is_scored(tmp_path: Path) -> None:
    path = write(
        tmp_path / "rows.jsonl",
        {"prompt": "Q one", "completion": "two"},
        {"instruction": "Q", "input": "one", "output": "two three"},
        {"text": "one two"},
        {"input_ids": [4, 5, 6], "labels": [-100, 5, 6]},
        {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]},
    )
    samples, report = encode_rows(load_dataset(path), word_tokenizer())
    assert [(s["input_ids"], s["labels"]) for s in samples] == [
        ([4, 6, 7, 1], [-100, -100, 7, 1]),
        ([4, 6, 7, 8, 1], [-100, -100, 7, 8, 1]),
        ([6, 7, 1], [6, 7, 1]),
        ([4, 5, 6], [-100, 5, 6]),
        ([9, 6, 1, 10, 7, 1], [-100, -100, -100, -100, 7, 1]),
    ]
    assert report.samples == 5 and report.lines() == []


def test_all_assistant_turns_are_scored() -> None:
    turns = [("system", "A"), ("user", "one"), ("assistant", "two"), ("user", "Q"), ("assistant", "three")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (sample,), _ = encode_rows([_row(row)], word_tokenizer())
    assert sample["input_ids"] == [11, 5, 1, 9, 6, 1, 10, 7, 1, 9, 4, 1, 10, 8, 1]
    assert [i for i, label in enumerate(sample["labels"]) if label != -100] == [7, 8, 13, 14]


def _row(values: dict[str, Any]) -> Any:
    from tlora_ref.data.rows import row_of as read

    return read("a row", values, {})


def test_a_begin_token_comes_first_only_where_the_tokenizer_puts_one() -> None:
    row = _row({"prompt": "Q", "completion": "one"})
    assert encode_rows([row], word_tokenizer(bos=True))[0][0]["input_ids"] == [0, 4, 6, 1]
    assert encode_prompt(row, word_tokenizer(bos=True)) == [0, 4]
    assert encode_prompt(row, word_tokenizer(), "chat") == [9, 4, 1, 10]
    assert response_text(row) == "one"


def test_templates_replace_fields_and_nothing_else() -> None:
    from tlora_ref.data.templates import prompt_text

    assert prompt_text("question", {"prompt": "{completion} {x} {0.__class__}", "completion": "c"}) == (
        "Question: {completion} {x} {0.__class__}\nAnswer: ",
        "c",
    )
    with pytest.raises(ConfigError, match="plain"):
        prompt_text("no such", {"prompt": "a", "completion": "b"})


def test_own_field_names(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm.jsonl", {"question": "Q one", "answer": "two"})
    (row,) = load_dataset(path, fields={"prompt": "question", "completion": "answer"})
    assert dict(row.values) == {"prompt": "Q one", "completion": "two"}
    with pytest.raises(DataError, match='line 1: field "anser" is missing'):
        load_dataset(path, fields={"prompt": "question", "completion": "anser"})
    with pytest.raises(DataError, match="unknown: they can be"):
        load_dataset(path, fields={"question": "prompt"})


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"prompt": "a"}', 'line 2: field "completion" is missing'),
        ('{"prompt": 3, "completion": "b"}', 'line 2: field "prompt" is int, expected a string'),
        ('{"input_ids": [1, 2]}', 'line 2: field "labels" is missing'),
        ('{"input_ids": [], "labels": []}', 'line 2: field "input_ids" must be a list of integers'),
        ('{"input_ids": [1.5], "labels": [1]}', 'line 2: field "input_ids" must be a list of integers'),
        ('{"input_ids": [99999999999], "labels": [1]}', "beyond any vocabulary"),
        ('{"messages": []}', 'line 2: field "messages" must be a list'),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] must have"),
        ('{"messages": [{"role": "wizard", "content": "a"}]}', "is from 'wizard', expected one of system, user"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no message is the assistant's"),
        ('{"foo": 1}', "line 2: no known form"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=match) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no train\.jsonl"):
        load_dataset(tmp_path)
    (tmp_path / "valid.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="expected a JSON list"):
        load_dataset(tmp_path, "valid")
    (tmp_path / "train.jsonl").write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        load_dataset(tmp_path)
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        load_dataset(tmp_path)
    (tmp_path / "test.json").write_text('[{"text": "one"}, {"text": 5}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"test.json, row 2: field \"text\""):
        load_dataset(tmp_path, "test")


def test_what_is_left_out_is_reported() -> None:
    rows = [_row({"prompt": "one " * n, "completion": "two"}) for n in (1, 9)]
    rows.append(_row({"input_ids": [1, 2], "labels": [-100, -100]}))
    samples, report = encode_rows(rows, word_tokenizer(), max_length=5)
    assert len(samples) == 1 and len(report.lines()) == 2
    assert "longer than 5 tokens" in report.lines()[0] and "no labelled token" in report.lines()[1]
    samples, report = encode_rows(rows[1:2] + rows[:1], word_tokenizer(), max_length=5, too_long="truncate")
    assert report.too_long and report.unlabelled and len(samples) == 1  # what is cut to its prompt has no label left
    with pytest.raises(DataError, match="no row can be used"):
        encode_rows(rows[2:], word_tokenizer())
    with pytest.raises(DataError, match="token id 13 is outside"):
        encode_rows([_row({"input_ids": [1, 13], "labels": [1, 13]})], None, vocab_size=13)
    with pytest.raises(DataError, match="3 entries, input_ids 2"):
        encode_rows([_row({"input_ids": [1, 2], "labels": [1, 2, 3]})], None)
    with pytest.raises(DataError, match="needs a tokenizer"):
        encode_rows(rows, None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{% for %}",
        "{{ undefined.x.y }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template: str) -> None:
    with pytest.raises(DataError, match="chat template"):
        word_tokenizer(chat=template).apply_chat_template([{"role": "user", "content": "one"}])


def test_a_template_is_needed_for_conversations() -> None:
    row = _row({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]})
    with pytest.raises(DataError, match="no chat template"):
        encode_rows([row], word_tokenizer(chat=None))


def test_tokenizers_from_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tokenizer.json.*need no tokenizer"):
        load_tokenizer(tmp_path)
    word_tokenizer().backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "chat_template": "old"}', encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.chat_template) == (1, None, CHAT)
    assert tokenizer.decode(tokenizer.encode("one two")) == "one two"
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_choice_order_and_padding() -> None:
    chosen, indices = choose_samples(list("abcdefgh"), 3, seed=1)
    assert chosen == [list("abcdefgh")[i] for i in indices] and indices == sorted(set(indices)) and len(indices) == 3
    assert choose_samples(list("abcdefgh"), 3, seed=1) == (chosen, indices)
    assert len({tuple(choose_samples(range(50), 3, seed=s)[1]) for s in range(20)}) > 15
    with pytest.raises(DataError, match="1 to 8"):
        choose_samples(list("abcdefgh"), 9)
    epoch = list(batches(range(7), 3, seed=0, epoch=4))
    assert [len(b) for b in epoch] == [3, 3, 1] and sorted(i for batch in epoch for i in batch) == list(range(7))
    assert epoch == list(batches(range(7), 3, seed=0, epoch=4)) != list(batches(range(7), 3, seed=0, epoch=5))
    padded = pad_batch([{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}], pad_id=9)
    assert {k: v.tolist() for k, v in padded.items()} == {
        "input_ids": [[1, 2], [3, 9]],
        "attention_mask": [[1, 1], [1, 0]],
        "labels": [[-100, 2], [3, -100]],
    }
    assert pad_batch([{"input_ids": [1, 2], "labels": 1}])["labels"].tolist() == [1]
    assert all(value.dtype == np.int64 for value in padded.values())
    with pytest.raises(DataError, match="empty batch"):
        pad_batch([])


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parity
def test_chat_template_as_transformers_renders_it() -> None:
    transformers = pytest.importorskip("transformers")
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    template = (
        "{%- for m in messages %}\n    {% if loop.index > 9 %}{% break %}{% endif %}\n"
        "{{ m | tojson }} {{ bos_token }}\n{%- endfor %}"
    )
    ours = word_tokenizer(chat=template)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend, bos_token="<s>", eos_token="</s>")
    theirs.chat_template = template
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(messages, tokenize=False)
