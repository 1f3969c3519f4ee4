"""Text to tokens and back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import tokenizers

from tlora_ref.data.chat_template import ChatTemplate
from tlora_ref.data.special_tokens import complete_vocabulary, named_tokens
from tlora_ref.errors import DataError, reason

Offsets = list[tuple[int, int]]
#: Blanks that `clean_up_tokenization_spaces` takes out of a decoded text, in transformers' order.
CLEANED = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")),
)
#: Tokenizer classes whose `add_prefix_space` in tokenizer_config.json goes before what tokenizer.json does.
PREFIXING = ("GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "LlamaTokenizer")


class Tokenizer:
    """A `tokenizers.Tokenizer` with what a checkpoint folder says about it.

    Parameters
    ----------
    backend : a copy of it, or itself, is given the tokens that `config` names and it lacks, and loses its padding and
        truncation
    config : tokenizer_config.json, with special_tokens_map.json where that counts
    templates : Jinja source of the chat template; several by name, of which "default" is used; or None

    Attributes
    ----------
    special : {name: token} of the named tokens, as templates see them
    bos_token, eos_token, pad_token, unk_token : strings or None; `*_token_id` their ids
    added : {token: id} of tokens that tokenizer.json lacks: a model may have no embedding for them
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], templates: Mapping[str, str] | str | None = None
    ) -> None:
        padding = backend.padding
        if padding is not None and "pad_token" not in config:
            config = {**config, "pad_token": padding["pad_token"]}
        self.backend = _with_prefix(backend, config)
        self.backend.encode_special_tokens = config.get("split_special_tokens") is True
        self.backend.no_padding()
        self.backend.no_truncation()
        self.special = named_tokens(config)
        with _our_errors("the tokenizer's named tokens cannot be added"):
            self.added = complete_vocabulary(self.backend, config)
        self.templates = {"default": templates} if isinstance(templates, str) else dict(templates or {})
        self.bos_token, self.eos_token = self.special.get("bos_token"), self.special.get("eos_token")
        self.pad_token, self.unk_token = self.special.get("pad_token"), self.special.get("unk_token")
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            None if token is None else self.backend.token_to_id(token)
            for token in (self.bos_token, self.eos_token, self.pad_token)
        )
        self._cleans = config.get("clean_up_tokenization_spaces") is True and not isinstance(
            self.backend.model, tokenizers.models.BPE
        )
        if self.eos_token in self.added:
            warnings.warn(
                f"the end token {self.eos_token} is not in tokenizer.json: it is added as token {self.eos_token_id}, "
                "as transformers adds it, and the model never saw it. If texts end with another, name that as "
                '"eos_token" in tokenizer_config.json',
                stacklevel=2,
            )

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def chat_template(self) -> str | None:
        """The source of the chat template that is used by default."""
        return self.templates.get("default")

    # ------------------------------------------------------------------ text and tokens
    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; with `add_special_tokens`, what the tokenizer's post-processor adds around it."""
        with _our_errors(f"{text[:40]!a} cannot be tokenised"):
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Token ids of `text`, and the characters (from, to) that each stands for, blanks at its ends included."""
        with _our_errors(f"{text[:40]!a} cannot be tokenised"):
            encoding = self._untrimmed.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that goes on where another ended: without the blank that some tokenizers put first."""
        if self._continuing is self.backend:
            return self.encode(text)
        with _our_errors(f"{text[:40]!a} cannot be tokenised"):
            whole = self.backend.encode(text, add_special_tokens=False)
            # from an added token on, each piece of text begins as the tokenizer has it
            added = self.backend.get_added_tokens_decoder()
            places = zip(whole.ids, whole.offsets, strict=True)
            starts = [start for i, (start, end) in places if i in added and added[i].content in text[start:end]]
            cut = starts[0] if starts else len(text)
            return [*self._continuing.encode(text[:cut], add_special_tokens=False).ids, *self.encode(text[cut:])]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        with _our_errors("these tokens cannot be decoded"):
            text = str(self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))
        for spaced, joined in CLEANED if self._cleans else ():
            text = text.replace(spaced, joined)
        return text

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens that the post-processor puts before and after a text (a begin-of-sequence token, or none)."""
        bare, whole = self.encode("a"), self.encode("a", add_special_tokens=True)
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
        return whole[:at], whole[at + len(bare) :]

    @property
    def end(self) -> list[int]:
        """What ends a text that is learnt: the end-of-sequence token, or what the post-processor puts there."""
        return self.frame[1] if self.eos_token_id is None else [self.eos_token_id]

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Every token that may end a turn: the end-of-sequence token and those that the vocabulary calls special."""
        special = (i for i, token in self.backend.get_added_tokens_decoder().items() if token.special)
        return frozenset((*special, *self.end))

    @cached_property
    def _untrimmed(self) -> tokenizers.Tokenizer:
        """The backend without a post-processor that takes blanks out of the offsets, where it has one."""
        processor = self.backend.post_processor
        if processor is None or b'"trim_offsets":true' not in processor.__getstate__():
            return self.backend
        return self._changed({"post_processor": None})

    @cached_property
    def _continuing(self) -> tokenizers.Tokenizer:
        """The backend without the blank that it puts before a text; itself if it puts none."""
        parts = [_state(part) for part in (self.backend.normalizer, self.backend.pre_tokenizer)]
        if parts == _without_prefix(parts):
            return self.backend
        whole = _parts(self.backend)
        return self._changed({name: _without_prefix(whole[name]) for name in ("normalizer", "pre_tokenizer")})

    def _changed(self, changes: Mapping[str, Any]) -> tokenizers.Tokenizer:
        """A copy of the backend with other parts."""
        copy = tokenizers.Tokenizer.from_str(json.dumps({**_parts(self.backend), **changes}))
        copy.encode_special_tokens = self.backend.encode_special_tokens
        return copy

    # ------------------------------------------------------------------ conversations
    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **options: Any
    ) -> str:
        """The text of a conversation by the checkpoint's template, as transformers renders it.

        The template came with the checkpoint and is not trusted: it runs in Jinja's sandbox, in a process of its own
        with bounded time and memory.

        Parameters
        ----------
        options : `tools` (JSON schemas) and `documents` (lists of objects), and whatever else the template asks for

        Raises
        ------
        DataError
            if there is no template, or it fails, tries to leave the sandbox, or takes too much time or memory.
        """
        template = self.template(options.get("tools") is not None)
        return template.render([(messages, add_generation_prompt)], {**self.special, **options})[0].text

    def template(self, tools: bool = False) -> ChatTemplate:
        """The chat template: "tool_use" for conversations with tools where there is one, else the default."""
        name = "tool_use" if tools and "tool_use" in self.templates else "default"
        if name not in self.templates:
            known = f" of the name default, only {', '.join(self.templates)}" if self.templates else ""
            raise DataError(
                f"this tokenizer has no chat template{known}: use prompts and completions, or a named template; to "
                "chat takes an instruction-tuned model's folder, with its chat template"
            )
        return self._compiled.setdefault(name, ChatTemplate(self.templates[name]))

    @cached_property
    def _compiled(self) -> dict[str, ChatTemplate]:
        return {}


def _with_prefix(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The backend with a blank before a text, or without, where tokenizer_config.json says so and it does otherwise."""
    wanted, name = config.get("add_prefix_space"), str(config.get("tokenizer_class")).removesuffix("Fast")
    if not isinstance(wanted, bool) or name not in PREFIXING:
        return backend
    parts = _parts(backend)
    if name == "LlamaTokenizer" and isinstance(backend.decoder, tokenizers.decoders.ByteLevel):
        return backend  # another's tokenizer under this name (DeepSeek's): transformers leaves it as it is
    change = _prefixed if wanted else _without_prefix
    changed = {key: change(parts[key]) for key in ("normalizer", "pre_tokenizer")}
    if all(changed[key] == parts[key] for key in changed):
        return backend
    return tokenizers.Tokenizer.from_str(json.dumps({**parts, **changed}))


def _prefixed(part: Any) -> Any:
    """A pre-tokenizer, as JSON, that puts a blank before a text."""
    if isinstance(part, list):
        return [_prefixed(item) for item in part]
    if not isinstance(part, dict):
        return part
    inner = {key: _prefixed(value) for key, value in part.items()}
    if inner.get("type") == "ByteLevel":
        return {**inner, "add_prefix_space": True}
    return {**inner, "prepend_scheme": "first"} if inner.get("prepend_scheme") == "never" else inner


def _parts(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(backend.to_str())
    return parts


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _without_prefix(part: Any) -> Any:
    """A normalizer or pre-tokenizer, as JSON, that neither puts a blank before a text nor takes one away."""
    if isinstance(part, list):
        return [_without_prefix(item) for item in part]
    if not isinstance(part, dict):
        return part
    changes = {
        "Prepend": {"type": "Sequence", "normalizers": []},
        "Metaspace": {**part, "prepend_scheme": "never"},
        "ByteLevel": {**part, "add_prefix_space": False},
        "Strip": {**part, "strip_left": False},
    }
    inner = {key: _without_prefix(value) for key, value in part.items()}
    return changes.get(str(part.get("type")), inner)


@contextmanager
def _our_errors(what: str) -> Iterator[None]:
    """The `tokenizers` library raises bare exceptions, and panics that are not even those: DataError for either."""
    try:
        yield
    except DataError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"{what} ({type(error).__name__}: {reason(error)})") from error
