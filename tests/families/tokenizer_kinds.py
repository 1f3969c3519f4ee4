"""The kind of tokenizer that each known checkpoint has, and the tokenizer class that its files name.

Llama-2's, Llama-3's, Qwen3's, Gemma 3's and all-MiniLM-L6-v2's were compared with the real files (see
`test_real_tokenizers_are_made_of_the_parts_of_a_kind`); the others are written down from what is known of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A checkpoint's tokenizer.

    Attributes
    ----------
    kind : of `tests.data_room.kinds.KINDS`
    name : `tokenizer_class` of its tokenizer_config.json; None where that names none
    end : whether the folder, or its class, names an end-of-sequence token; else what the post-processor adds ends
    """

    kind: str
    name: str | None
    end: bool = True


FAST = "PreTrainedTokenizerFast"
WORDS = "byte-level, words and numbers"
BERT = "WordPiece, framed"

#: Checkpoints of `known.KNOWN` and `known.ROUNDED`.
PUBLISHED: dict[str, Published] = {
    "bert-base-uncased": Published(BERT, "BertTokenizer", end=False),
    "all-MiniLM-L6-v2": Published(BERT, "BertTokenizer", end=False),
    "distilbert-base-uncased": Published(BERT, "DistilBertTokenizer", end=False),
    "electra-small-discriminator": Published(BERT, "ElectraTokenizer", end=False),
    "electra-base-discriminator": Published(BERT, "ElectraTokenizer", end=False),
    "deberta-v3-small": Published("Unigram, framed", None),
    "deberta-v3-base": Published("Unigram, framed", None),
    "deberta-v3-large": Published("Unigram, framed", None),
    "gemma-2b": Published("Replace", "GemmaTokenizer"),
    "gemma-2-2b": Published("Replace", "GemmaTokenizer"),
    "gemma-3-270m": Published("Replace", "GemmaTokenizer"),
    "gemma-3-1b": Published("Replace", "GemmaTokenizer"),
    "gpt2": Published("byte-level", None),
    "pythia-70m": Published("byte-level, NFC", "GPTNeoXTokenizer"),
    "granite-3.1-2b-instruct": Published("byte-level, digits", "GPT2Tokenizer"),
    "granite-4.0-micro": Published(WORDS, "GPT2Tokenizer"),
    "granite-4.0-350m": Published(WORDS, "GPT2Tokenizer"),
    "LFM2-350M": Published(WORDS, FAST),
    "Llama-2-7b": Published("Prepend and Replace", "LlamaTokenizer"),
    "Llama-3.1-8B": Published(WORDS, FAST),
    "SmolLM2-135M": Published("byte-level, digits", "GPT2Tokenizer"),
    "Ministral-3-3B": Published(WORDS, "TokenizersBackend"),
    "Mistral-7B-v0.1": Published("Prepend and Replace", "LlamaTokenizer"),
    "ModernBERT-base": Published("byte-level, NFC, framed", FAST, end=False),
    "ModernBERT-large": Published("byte-level, NFC, framed", FAST, end=False),
    "OLMo-2-0425-1B": Published(WORDS, "GPT2Tokenizer"),
    "opt-125m": Published("byte-level, begun", "GPT2Tokenizer"),
    "opt-350m": Published("byte-level, begun", "GPT2Tokenizer"),
    "opt-1.3b": Published("byte-level, begun", "GPT2Tokenizer"),
    "Phi-3-mini-4k-instruct": Published("Prepend and Replace", "LlamaTokenizer"),
    "Phi-4-mini-instruct": Published(WORDS, "GPT2Tokenizer"),
    "Qwen2.5-0.5B": Published("byte-level, NFC, words and digits", "Qwen2Tokenizer"),
    "Qwen3-0.6B": Published("byte-level, NFC, words and digits", "Qwen2Tokenizer"),
    "roberta-base": Published("byte-level, framed", None),
    "SmolLM3-3B": Published(WORDS, FAST),
    "starcoder2-3b": Published("byte-level, digits", "GPT2Tokenizer"),
    "t5-base": Published("Unigram", "T5Tokenizer"),
}
