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
FRAME = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
#: How Llama 3 and those after it divide a text before its bytes are merged.
WORDS_AND_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
LLAMA_DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)

#: Words apart, for the trainer: it would merge whole sentences.
APART = pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated")


def without_pre_tokenizer(backend: Tokenizer) -> Tokenizer:
    """The same, merging across words."""
    return Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "pre_tokenizer": None}))


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
        backend.pre_tokenizer = APART
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        backend.decoder = LLAMA_DECODER

    return without_pre_tokenizer(_bpe(prepare))


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
    """GPT-NeoX's kind: byte-level after NFC, which joins an accent to the letter before it."""
    backend = byte_level()
    backend.normalizer = normalizers.NFC()
    return backend


def divided(first: pre_tokenizers.PreTokenizer, regex: bool) -> Tokenizer:
    """A text divided by `first`, and then into bytes: by GPT-2's regular expression too, or not."""

    def prepare(backend: Tokenizer) -> None:
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
        backend.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        backend.decoder = decoders.ByteLevel()

    return _bpe(prepare, pre_tokenizers.ByteLevel.alphabet())


def digits() -> Tokenizer:
    """StarCoder's kind: every digit apart."""
    return divided(pre_tokenizers.Digits(individual_digits=True), regex=True)


def words_and_numbers() -> Tokenizer:
    """Llama 3's kind: its own regular expression, and a begin token after offsets without blanks."""
    backend = divided(pre_tokenizers.Split(Regex(WORDS_AND_NUMBERS), "isolated"), regex=False)
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    return backend


def qwen() -> Tokenizer:
    """Qwen's kind: NFC, which joins an accent to the letter before it, and every digit apart."""
    expression = WORDS_AND_NUMBERS.replace("{1,3}", "")
    backend = divided(pre_tokenizers.Split(Regex(expression), "isolated"), regex=False)
    backend.normalizer = normalizers.NFC()
    return backend


def with_post(backend: Tokenizer, post: processors.PostProcessor) -> Tokenizer:
    """The same with another post-processor."""
    backend.post_processor = post
    return backend


def replace() -> Tokenizer:
    """Gemma's kind: a normalizer writes every blank as ▁, and nothing is put first or taken away."""

    def prepare(backend: Tokenizer) -> None:
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = APART
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])

    backend = _bpe(prepare)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # of which the normalizer leaves none
    return backend


def bert() -> Tokenizer:
    """BERT's kind: words of it between the tokens that begin and end a text, and joined again in decoding."""
    backend = with_post(word_piece(), FRAME)
    backend.decoder = decoders.WordPiece()
    return backend


def opt() -> Tokenizer:
    """OPT's kind: one token begins and ends every text."""
    return with_post(byte_level(), processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)]))


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, prefix": lambda: byte_level(prefix=True, trim=True),
    "byte-level, trimmed": lambda: byte_level(trim=True),
    "byte-level, NFC": nfc,
    "byte-level, NFC, framed": lambda: with_post(nfc(), FRAME),
    "byte-level, NFC, words and digits": qwen,
    "byte-level, words and numbers": words_and_numbers,
    "byte-level, digits": digits,
    "byte-level, begun": opt,
    "byte-level, framed": lambda: with_post(byte_level(), processors.RobertaProcessing(("</s>", 2), ("<s>", 1))),
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace always": lambda: metaspace("always"),
    "Prepend and Replace": prepend,
    "Replace": replace,
    "WordPiece": word_piece,
    "WordPiece, framed": bert,
    "Unigram": unigram,
    "Unigram, framed": lambda: with_post(unigram(), FRAME),
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
