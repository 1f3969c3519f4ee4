"""The named tokens of a tokenizer (begin, end, padding, ...): which they are, and that the vocabulary has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tlora_ref.errors import DataError

#: The names that transformers gives a meaning to, in its order.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: How a token is found in a text.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
#: What a tokenizer class of transformers names where tokenizer_config.json is silent (GPT-2's file names nothing).
CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    "GPTNeoXTokenizer": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    "Qwen2Tokenizer": {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "BertTokenizer": {
        **{"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"},
        "mask_token": "[MASK]",
    },
    "DebertaV2Tokenizer": {
        **{"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]", "sep_token": "[SEP]"},
        **{"pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"},
    },
    "RobertaTokenizer": {
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"},
        **{"cls_token": "<s>", "mask_token": "<mask>"},
    },
}
#: The tokenizer class of a family whose folder names none.
FAMILY_CLASSES = {
    **{"gpt2": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "starcoder2": "GPT2Tokenizer", "gpt_neox": "GPTNeoXTokenizer"},
    **{"qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "t5": "T5Tokenizer", "roberta": "RobertaTokenizer"},
    **{"gemma": "GemmaTokenizer", "gemma2": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer"},
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    "deberta-v2": "DebertaV2Tokenizer",
}


def with_class_defaults(config: Mapping[str, Any], model: Mapping[str, Any], vocabulary: set[str]) -> dict[str, Any]:
    """`config` with the tokens that its tokenizer class implies; those that the vocabulary lacks are nobody's.

    Parameters
    ----------
    config, model : tokenizer_config.json and config.json
    """
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if not isinstance(name, str):
        family = model.get("model_type")
        name = FAMILY_CLASSES.get(family, "") if isinstance(family, str) else ""
    defaults = CLASS_DEFAULTS.get(name.removesuffix("Fast"), {})
    return {**{key: token for key, token in defaults.items() if token in vocabulary}, **config}


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """{name: token} of all named tokens, a model's own (`image_token`) included; DataError for what is no token."""
    own = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str | Mapping)}
    extra = config.get("extra_special_tokens")
    found = {}
    for name, value in {**{name: config.get(name) for name in NAMES}, **own, **_named(extra)}.items():
        if value is not None and value != "":
            found[name] = _content(name, value)
    return found


def complete_vocabulary(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> dict[str, int]:
    """Gives `backend` the tokens that the configuration names and tokenizer.json lacks, as transformers adds them:
    those of `added_tokens_decoder` by their ids, then the named ones, then the additional ones.

    Returns
    -------
    {token: id} of those that are new to the vocabulary. A token that is in it only becomes whole: it is found in a
    text as one piece.
    """
    present = backend.get_added_tokens_decoder().values()
    here, as_declared = {token.content for token in present}, {repr(token) for token in present}
    adding = [token for token in _declared(config) if repr(token) not in as_declared]
    named = [_token(name, config.get(name), text, special=True) for name, text in named_tokens(config).items()]
    extra = [_additional_token(token) for token in _additional(config)]
    for token in [*named, *extra]:
        if token.content not in here and token.content not in {other.content for other in adding}:
            adding.append(token)
    new = {token.content for token in adding if backend.token_to_id(token.content) is None}
    backend.add_tokens(adding)
    return {token: i for token, i in backend.get_vocab().items() if token in new} if new else {}


def _declared(config: Mapping[str, Any]) -> list[AddedToken]:
    """The tokens of `added_tokens_decoder`, by id."""
    declared = config.get("added_tokens_decoder") or {}
    where = 'tokenizer_config.json: "added_tokens_decoder"'
    if not isinstance(declared, Mapping) or not all(str(key).isdecimal() and len(str(key)) < 10 for key in declared):
        raise DataError(f"{where} must be an object from token ids to tokens")
    return [
        _token("added_tokens_decoder", value) for _, value in sorted(declared.items(), key=lambda item: int(item[0]))
    ]


def _additional_token(value: Any) -> AddedToken:
    """A further special token; one that is an object is special only if it says so."""
    name = "additional_special_tokens"
    return _token(name, value) if isinstance(value, Mapping) else _token(name, value, special=True)


def _token(name: str, value: Any, text: str | None = None, **fixed: bool) -> AddedToken:
    """A token with its flags: from an object that has them, or of `text` alone."""
    content = _content(name, value if text is None else text)
    chosen = {flag: value[flag] for flag in FLAGS if isinstance(value, Mapping) and flag in value}
    if not all(isinstance(flag, bool) for flag in chosen.values()):
        raise DataError(f'tokenizer_config.json: "{name}": {", ".join(FLAGS)} of {content!a} must be true or false')
    return AddedToken(content, **{**chosen, **fixed})


def _additional(config: Mapping[str, Any]) -> list[Any]:
    """The further special tokens, under either of their names; in an object they are named ones."""
    value = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if _named(value):
        return []
    if not isinstance(value, list):
        raise DataError('tokenizer_config.json: "additional_special_tokens" must be a list of tokens')
    return value


def _named(extra: Any) -> Mapping[str, Any]:
    return extra if isinstance(extra, Mapping) else {}


def _content(name: str, token: Any) -> str:
    """A token's text: a string, or an object with `content`; DataError for anything else, or half a character."""
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str):
        raise DataError(
            f'tokenizer_config.json: "{name}" is {str(token)[:60]!a}, expected a string or an object with "content"'
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f'tokenizer_config.json: "{name}" holds half of a surrogate pair: {text[:60]!a}') from None
    return text
