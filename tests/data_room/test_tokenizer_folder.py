"""A tokenizer's folder as transformers reads it: which file says what, and tokens that the vocabulary lacks."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.data_room.kinds import backend_of
from tlora_ref.data import encode_rows, load_dataset, load_tokenizer
from tlora_ref.errors import DataError

TOKEN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def folder_of(path: Path, kind: str = "byte-level", added: bool = True, **files: Any) -> Path:
    """A tokenizer's folder; files=contents, `__` for the dot. Without `added`, no token of it is special."""
    parts = json.loads(backend_of(kind).to_str())
    if not added:
        parts["added_tokens"] = []
    (path / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


FAST = "PreTrainedTokenizerFast"
#: Files -> (begin, end, padding token), recorded from transformers 5.24's AutoTokenizer.
CONFLICTS: dict[str, tuple[dict[str, Any], tuple[str | None, str | None, str | None]]] = {
    "the map overrides": (
        {
            "tokenizer_config__json": {"tokenizer_class": FAST, "eos_token": "</s>"},
            "special_tokens_map__json": {"eos_token": "<s>"},
        },
        (None, "<s>", None),
    ),
    "the map overrides with an object": (
        {
            "tokenizer_config__json": {"tokenizer_class": FAST, "eos_token": "</s>", "bos_token": "<s>"},
            "special_tokens_map__json": {"eos_token": {"content": "<unk>", "lstrip": False}},
        },
        ("<s>", "<unk>", None),
    ),
    "the map takes away": (
        {
            "tokenizer_config__json": {"tokenizer_class": FAST, "bos_token": "<s>", "eos_token": "</s>"},
            "special_tokens_map__json": {"bos_token": None},
        },
        (None, "</s>", None),
    ),
    "the map is not read beside added_tokens_decoder": (
        {
            "tokenizer_config__json": {
                **{"tokenizer_class": FAST, "eos_token": "</s>"},
                "added_tokens_decoder": {"2": {"content": "</s>", **TOKEN}},
            },
            "special_tokens_map__json": {"eos_token": "<s>", "pad_token": "<unk>"},
        },
        (None, "</s>", None),
    ),
    "the map alone": ({"special_tokens_map__json": {"eos_token": "</s>", "pad_token": "<s>"}}, (None, "</s>", "<s>")),
    "nothing": ({"tokenizer_config__json": {"tokenizer_class": FAST}}, (None, None, None)),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_which_file_says_what(name: str, tmp_path: Path) -> None:
    files, named = CONFLICTS[name]
    tokenizer = load_tokenizer(folder_of(tmp_path, **files))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == named


@pytest.mark.parity
@pytest.mark.parametrize("name", CONFLICTS)
def test_transformers_says_so_too(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    files, named = CONFLICTS[name]
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder_of(tmp_path, **files))
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == named


def lacking(path: Path, **changes: Any) -> Path:
    """An end token that tokenizer.json lacks."""
    config = {"tokenizer_class": FAST, "bos_token": "<s>", "eos_token": "<|endofturn|>", **changes}
    return folder_of(path, tokenizer_config__json=config)


@pytest.mark.parametrize("declared", [False, True])
def test_an_end_token_that_the_vocabulary_lacks_is_added_and_said(declared: bool, tmp_path: Path) -> None:
    size = backend_of("byte-level").get_vocab_size()
    decoder = {"added_tokens_decoder": {str(size): {"content": "<|endofturn|>", **TOKEN}}} if declared else {}
    with pytest.warns(UserWarning, match=rf"<\|endofturn\|> is not in tokenizer.json: it is added as token {size}"):
        tokenizer = load_tokenizer(lacking(tmp_path, **decoder))
    assert tokenizer.eos_token_id == size and tokenizer.vocab_size == size + 1
    assert tokenizer.encode("a<|endofturn|>b") == [*tokenizer.encode("a"), size, *tokenizer.encode("b")]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello", "completion": " world"}', encoding="utf-8")
    rows = load_dataset(tmp_path / "rows.jsonl")
    (sample,), _ = encode_rows(rows, tokenizer, vocab_size=size + 1)  # a model that has a place for it
    assert sample["labels"][-1] == size
    with pytest.raises(DataError, match=rf"the token <\|endofturn\|> has no place in the model's vocabulary of {size}"):
        encode_rows(rows, tokenizer, vocab_size=size)


def test_rows_that_nothing_ends_are_said(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_of(tmp_path, tokenizer_config__json={"tokenizer_class": FAST}))
    rows = [{"prompt": "hello", "completion": " world"}, {"text": "hello world"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    samples, report = encode_rows(load_dataset(tmp_path / "rows.jsonl"), tokenizer)
    assert len(samples) == 2 and len(report.endless) == 2
    assert "2 row(s) without a scored end token" in report.lines()[0] and "line 1" in report.lines()[0]


def test_a_post_processor_that_ends_texts_names_the_end_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_of(tmp_path, "Unigram", tokenizer_config__json={"tokenizer_class": FAST}))
    assert tokenizer.eos_token is None and tokenizer.end == [2]


@pytest.mark.parametrize(
    ("config", "model", "named"),
    [
        ({"tokenizer_class": "GPT2Tokenizer"}, {}, ("<|endoftext|>", "<|endoftext|>")),
        ({"model_max_length": 1024}, {"model_type": "gpt2"}, ("<|endoftext|>", "<|endoftext|>")),  # GPT-2 as published
        ({"tokenizer_class": "GPT2TokenizerFast", "eos_token": "</s>"}, {}, ("<|endoftext|>", "</s>")),
        ({"tokenizer_class": "GPT2Tokenizer", "eos_token": None}, {}, ("<|endoftext|>", None)),
        ({"tokenizer_class": "LlamaTokenizer"}, {}, ("<s>", "</s>")),
        ({}, {"model_type": "qwen2"}, (None, "<|endoftext|>")),
        ({"vocab_type": "spm"}, {"model_type": "deberta-v2"}, ("[CLS]", "[SEP]")),  # DeBERTa v3 as published
        ({"tokenizer_class": FAST}, {"model_type": "gpt2"}, (None, None)),
        ({}, {"model_type": ["gpt2"]}, (None, None)),
    ],
)
def test_a_class_of_tokenizers_names_what_its_folder_leaves_out(
    config: Any, model: Any, named: tuple[str | None, str | None], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, tokenizer_config__json=config, config__json=model)
    backend = backend_of("byte-level")
    backend.add_special_tokens(["<|endoftext|>", "[CLS]", "[SEP]"])
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == named


#: tokenizer_config.json -> it changes what a text's tokens are.
ADDING: list[dict[str, Any]] = [
    {"eos_token": "</s>"},
    {"eos_token": "<|end|>", "pad_token": "[PAD]"},
    {"added_tokens_decoder": {"400": {"content": "<b>", **TOKEN}, "399": {"content": "<a>", **TOKEN}}},
    {"added_tokens_decoder": {"2": {"content": "</s>", **TOKEN, "lstrip": True}}, "eos_token": "</s>"},
    {"additional_special_tokens": ["<|x|>", "hello"], "eos_token": "</s>"},
    {"extra_special_tokens": ["<|y|>"], "bos_token": "<s>"},
    {"image_token": "<img>", "cls_token": "world"},
    {"extra_special_tokens": {"boi_token": "<img>"}, "cls_token": "world"},
]


@pytest.mark.parity
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("config", ADDING)
def test_texts_have_the_tokens_that_transformers_gives_them(config: Any, added: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of(tmp_path, added=added, tokenizer_config__json={"tokenizer_class": FAST, **config})
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = load_tokenizer(folder)
    for text in ("hello </s> world", "<a>x<b> <|end|>y[PAD]", "a <|x|> hello <|y|>b<img>world"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert ours.eos_token_id == theirs.eos_token_id and ours.pad_token_id == theirs.pad_token_id
    assert ours.special == dict(theirs.special_tokens_map)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer_config__json": {"eos_token": 5}}, "eos_token"),
        ({"tokenizer_config__json": {"eos_token": {"content": None}}}, "eos_token"),
        ({"tokenizer_config__json": {"bos_token": ["<s>"]}}, "bos_token"),
        ({"tokenizer_config__json": {"unk_token": float("nan")}}, "unk_token"),
        ({"tokenizer_config__json": {"pad_token": "a\ud800"}}, "surrogate"),
        ({"tokenizer_config__json": {"image_token": "\udfff"}}, "surrogate"),
        ({"tokenizer_config__json": {"added_tokens_decoder": [1]}}, "added_tokens_decoder"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"x": "y"}}}, "added_tokens_decoder"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"9": {"content": "y", "lstrip": 1}}}}, "lstrip"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"²": "y"}}}, "added_tokens_decoder"),
        ({"tokenizer_config__json": {"added_tokens_decoder": {"9" * 99: "y"}}}, "added_tokens_decoder"),
        ({"tokenizer_config__json": {"additional_special_tokens": "x"}}, "additional_special_tokens"),
        ({"tokenizer_config__json": {"additional_special_tokens": [1]}}, "additional_special_tokens"),
        ({"tokenizer_config__json": {"chat_template": 5}}, "chat_template"),
        ({"tokenizer_config__json": {"chat_template": [{"name": "default"}]}}, "chat_template"),
        ({"tokenizer_config__json": {"chat_template": [{"name": [], "template": "x"}]}}, "chat_template"),
        ({"tokenizer_config__json": "["}, "tokenizer_config.json: not a JSON file"),
        ({"tokenizer_config__json": "[" * 100_000}, "not a JSON file"),
        ({"tokenizer_config__json": "[]"}, "expected a JSON object"),
        ({"special_tokens_map__json": "{]"}, "special_tokens_map.json: not a JSON file"),
        ({"special_tokens_map__json": {"eos_token": 1e999}}, "eos_token"),
        ({"config__json": "{"}, "config.json: not a JSON file"),
    ],
)
def test_a_damaged_file_is_one_error_of_ours(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load_tokenizer(folder_of(tmp_path, **files))
    assert said in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "config.json"]
)
def test_bytes_that_are_no_utf_8_are_an_error(name: str, tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / name).write_bytes(b'{"eos_token": "\xad"}')
    with pytest.raises(DataError, match=name):
        load_tokenizer(tmp_path)


def test_templates_by_name(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t {{ tools | length }}"}]
    tokenizer = load_tokenizer(folder_of(tmp_path, tokenizer_config__json={"chat_template": named}))
    message = [{"role": "user", "content": "x"}]
    assert tokenizer.apply_chat_template(message) == "d"
    assert tokenizer.apply_chat_template(message, tools=[{"name": "f"}]) == "t 1"
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert load_tokenizer(tmp_path).apply_chat_template(message) == "file"
    with pytest.raises(DataError, match="no chat template of the name default, only rag"):
        named = [{"name": "rag", "template": "r"}]
        (tmp_path / "chat_template.jinja").unlink()
        load_tokenizer(folder_of(tmp_path, tokenizer_config__json={"chat_template": named})).apply_chat_template(
            message
        )
