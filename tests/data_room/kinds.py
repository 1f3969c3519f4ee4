"""A tiny tokenizer of every kind that people's checkpoints have, trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    "Q: what is the capital of France? A: Paris",
    "hello world, how are you today? I am well.",
    "the quick brown fox jumps over the lazy dog 12 times and 345 more",
    "a = b + c; print(a)\nfor x in y:\n    pass\n",
    "déjà vu, naïve café; ﬁne",
] * 3
SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA_DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def _bpe(prepare: Callable[[Tokenizer], None], alphabet: list[str] | None = None) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=alphabet is None))
    prepare(backend)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)] if alphabet is None else []
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=[*SPECIAL, *bytes_], initial_alphabet=alphabet or [], show_progress=False
    )
    backend.train_from_iterator(SENTENCES, trainer)
    parts = json.loads(backend.to_str())
    parts["added_tokens"] = parts["added_tokens"][: len(SPECIAL)]  # the trainer would have the bytes among them
    return Tokenizer.from_str(json.dumps(parts))


def byte_level(prefix: bool = False, trim: bool = False) -> Tokenizer:
    """GPT-2's and Llama-3's kind; with `prefix`, RoBERTa's `add_prefix_space`; with `trim`, offsets without blanks."""

    def prepare(backend: Tokenizer) -> None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        backend.post_processor = processors.ByteLevel(trim_offsets=trim)
        backend.decoder = decoders.ByteLevel()

    return _bpe(prepare, pre_tokenizers.ByteLevel.alphabet())


def metaspace(scheme: str) -> Tokenizer:
    """Mistral's and newer Llama-2's kind: a blank before the text ("first"), or before every piece ("always")."""

    def prepare(backend: Tokenizer) -> None:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always")
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        backend.decoder = LLAMA_DECODER

    return _bpe(prepare)


def prepend() -> Tokenizer:
    """Llama-2's published kind: a normalizer that puts a blank first and writes every blank as ▁."""

    def prepare(backend: Tokenizer) -> None:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        # words apart, or the trainer would merge whole sentences
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated")
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        backend.decoder = LLAMA_DECODER

    return _bpe(prepare)


def word_piece() -> Tokenizer:
    """BERT's kind."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return backend


def unigram() -> Tokenizer:
    """T5's kind: NFKC, runs of blanks as one, blanks at the end gone."""
    words = sorted({f"▁{word}" for sentence in SENTENCES for word in sentence.split()})
    parts = sorted({word[:3] for word in words} | {word[-2:] for word in words})
    letters = sorted({letter for word in words for letter in word})
    # the trainer's own result differs from run to run; as log-probabilities, longer pieces are likelier than letters
    scores = {**dict.fromkeys(letters, -5.0), **dict.fromkeys(parts, -6.0), **dict.fromkeys(words, -7.0)}
    backend = Tokenizer(models.Unigram([*((token, 0.0) for token in SPECIAL), *scores.items()], unk_id=0))
    backend.add_special_tokens(SPECIAL)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return backend


def nfc() -> Tokenizer:
    """Qwen's kind: byte-level after NFC, which joins an accent to the letter before it."""
    backend = byte_level()
    backend.normalizer = normalizers.NFC()
    return backend


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, prefix": lambda: byte_level(prefix=True, trim=True),
    "byte-level, trimmed": lambda: byte_level(trim=True),
    "byte-level, NFC": nfc,
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace always": lambda: metaspace("always"),
    "Prepend and Replace": prepend,
    "WordPiece": word_piece,
    "Unigram": unigram,
}


@cache
def trained(kind: str) -> str:
    """tokenizer.json of a kind."""
    return KINDS[kind]().to_str()


def backend_of(kind: str) -> Tokenizer:
    """A fresh tokenizer of a kind."""
    return Tokenizer.from_str(trained(kind))


def unprefixed(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer, but that it puts no blank before a text."""
    bare = Tokenizer.from_str(backend.to_str())
    if isinstance(bare.pre_tokenizer, pre_tokenizers.Metaspace):
        bare.pre_tokenizer.prepend_scheme = "never"
    if isinstance(bare.pre_tokenizer, pre_tokenizers.ByteLevel):
        bare.pre_tokenizer.add_prefix_space = False
    if "Prepend" in str(bare.normalizer):
        bare.normalizer = normalizers.Replace(" ", "▁")
    return bare
