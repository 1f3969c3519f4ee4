"""What tokenizer_config.json and the files beside it change in how a text becomes tokens, as transformers has it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.data_room.kinds import KINDS, backend_of
from tests.data_room.test_tokenizer_folder import FAST, folder_of
from tlora_ref.data import load_tokenizer
from tlora_ref.errors import DataError

PADDING = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
STRIPPING = {
    "__type": "AddedToken",
    "content": "<|end|>",
    "lstrip": True,
    "rstrip": True,
    "normalized": False,
    "single_word": False,
}
#: What a folder says -> its files.
SAID: dict[str, dict[str, Any]] = {
    "nothing": {},
    "split special tokens": {"split_special_tokens": True},
    "a token that strips": {"eos_token": STRIPPING},
    "additional tokens that strip": {"additional_special_tokens": [STRIPPING]},
    "whole words": {"added_tokens_decoder": {"520": {"content": "fox", "single_word": True, "special": False}}},
    "normalised": {"added_tokens_decoder": {"520": {"content": "Hello", "normalized": True, "special": False}}},
    "clean": {"clean_up_tokenization_spaces": True},
    "begin and end, which tokenizer.json decides": {"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>"},
    "lengths and sides": {"model_max_length": 4, "padding_side": "left", "truncation_side": "left"},
    "padded with the end token": {"pad_token": "</s>"},
}
TEXTS = (
    "hello world",
    "  a <|end|> b ",
    "x</s>y <s>",
    "the fox, foxes fox",
    "Hello there. Hello!",
    "a\n\nQ: b",
    "déjà vu",
)


def tokenizer_in(folder: Path, kind: str, config: dict[str, Any], **parts: Any) -> Any:
    """The tokenizer of a folder whose tokenizer.json has other `parts`."""
    folder_of(folder, kind, tokenizer_config__json={"tokenizer_class": FAST, "eos_token": "</s>", **config})
    values = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**values, **parts}), "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the end token is new
        return load_tokenizer(folder)


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.backend.id_to_token(i) for i in tokenizer.encode(text)]


@pytest.mark.parity
@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_texts_are_those_of_transformers(kind: str, said: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tokenizer_in(tmp_path, kind, SAID[said])
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False, truncation=False).input_ids
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special_tokens=True) == theirs(text, truncation=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_special_tokens_in_a_text_are_letters_where_the_folder_says_so(tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path, "byte-level", {"split_special_tokens": True})
    assert pieces(tokenizer, "x</s>") == ["x", "<", "/", "s", ">"]
    assert pieces(tokenizer_in(tmp_path, "byte-level", {}), "x</s>") == ["x", "</s>"]


def test_a_named_token_keeps_its_flags(tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path, "byte-level", SAID["a token that strips"])
    assert pieces(tokenizer, "a <|end|> b") == ["a", "<|end|>", "b"]  # and both blanks are the token's


def test_added_tokens_json_is_read_where_nothing_newer_is(tmp_path: Path) -> None:
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im|>": 520}), "utf-8")
    new = backend_of("byte-level").get_vocab_size()  # the next free one, whatever the file says, as in transformers
    tokenizer = tokenizer_in(tmp_path, "byte-level", {})
    assert tokenizer.encode("a<|im|>b") == [*tokenizer.encode("a"), new, *tokenizer.encode("b")]
    assert tokenizer.decode([new]) == "<|im|>"  # no special token: nothing names it
    assert tokenizer.added == {"<|im|>": new}
    declared = tokenizer_in(tmp_path, "byte-level", {"added_tokens_decoder": {}})
    assert declared.added == {}


@pytest.mark.parametrize("value", ["520", -1, None, 1.5, True])
def test_a_damaged_added_tokens_json_is_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im|>": value}), "utf-8")
    with pytest.raises(DataError, match=r"added_tokens.json: the id of '<\|im\|>'"):
        tokenizer_in(tmp_path, "byte-level", {})


def test_padding_names_the_padding_token_and_is_not_done(tmp_path: Path) -> None:
    parts = {"padding": {**PADDING, "pad_token": "<unk>"}, "truncation": TRUNCATION}
    tokenizer = tokenizer_in(tmp_path, "byte-level", {}, **parts)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<unk>", 0)
    assert (
        tokenizer.decode(tokenizer.encode("the quick brown fox jumps over it")) == "the quick brown fox jumps over it"
    )
    assert tokenizer_in(tmp_path, "byte-level", {"pad_token": "</s>"}, **parts).pad_token == "</s>"


@pytest.mark.parametrize(
    ("kind", "name", "prefix", "first"),
    [
        ("byte-level", "GPT2Tokenizer", True, "Ġx"),
        ("byte-level, prefix", "GPT2TokenizerFast", False, "x"),
        ("byte-level, NFC", "Qwen2Tokenizer", True, "Ġx"),
        ("Prepend and Replace", "LlamaTokenizer", False, "x"),
        ("Metaspace first", "LlamaTokenizerFast", False, "x"),
        ("byte-level", "LlamaTokenizerFast", True, "x"),  # DeepSeek's: the class is none of its own
        ("byte-level", FAST, True, "x"),
        ("byte-level, prefix", "GPT2Tokenizer", None, "Ġx"),
    ],
)
def test_a_blank_before_a_text_is_the_folder_s_to_say(
    kind: str, name: str, prefix: bool | None, first: str, tmp_path: Path
) -> None:
    config = {"tokenizer_class": name, "add_prefix_space": prefix}
    tokenizer = tokenizer_in(tmp_path, kind, config)
    assert pieces(tokenizer, "x")[0] == first
    assert tokenizer.encode_continuation("x") == [tokenizer.backend.token_to_id("x")]


def test_cleaning_is_for_texts_of_words(tmp_path: Path) -> None:
    words = tokenizer_in(tmp_path, "WordPiece", {"clean_up_tokenization_spaces": True})
    assert words.decode(words.encode("hello world, you")) == "hello world, you"
    plain = tokenizer_in(tmp_path, "WordPiece", {})
    assert plain.decode(plain.encode("hello world, you")) == "hello world , you"
    letters = tokenizer_in(tmp_path, "byte-level", {"clean_up_tokenization_spaces": True})  # it would lose their blanks
    assert letters.decode(letters.encode("hello , world .")) == "hello , world ."
