"""The pieces of tokens make up the text of all of them."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tlora_ref.data import Pieces, Tokenizer, load_tokenizer, token_texts
from tlora_ref.shipped import shipped_model

TEXTS = ("", "a", "  two  blanks ", "Häuser 東京\n🙂🙂 z", "x\N{REPLACEMENT CHARACTER}y \N{REPLACEMENT CHARACTER}")


def sentencepiece_like() -> Tokenizer:
    """Blanks as underscores, bytes for what is unknown, the first blank dropped in decoding, as Llama-2 has it."""
    words = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁two", "▁z"]
    model = models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend, {})


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [sentencepiece_like, lambda: load_tokenizer(shipped_model())])
def test_joined_they_are_the_text(make, text: str) -> None:
    tokenizer = make()
    ids = tokenizer.encode(text)
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=False)
    pieces = Pieces(tokenizer)
    assert "".join(map(pieces.take, ids)) + pieces.end() == tokenizer.decode(ids)


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = sentencepiece_like()
    pieces = Pieces(tokenizer)
    given = [pieces.take(1 + byte) for byte in "é".encode()]
    assert given == ["", "é"]
    assert pieces.take(1 + 0xE6) == "" and set(pieces.end()) == {"\N{REPLACEMENT CHARACTER}"}
