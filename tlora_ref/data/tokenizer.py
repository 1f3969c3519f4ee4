"""Text to tokens and back, with the chat template of the checkpoint in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tlora_ref.errors import DataError

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """A `tokenizers.Tokenizer` with what a checkpoint folder says about it.

    Attributes
    ----------
    bos_token, eos_token, pad_token : strings or None; `*_token_id` their ids
    chat_template : Jinja source or None
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], template: str | None) -> None:
        self.backend = backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.chat_template = template
        names = {name: _content(config.get(name)) for name in SPECIAL}
        self.bos_token, self.eos_token, self.pad_token, self.unk_token = (names[name] for name in SPECIAL)
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            None if token is None else backend.token_to_id(token)
            for token in (self.bos_token, self.eos_token, self.pad_token)
        )

    @property
    def vocab_size(self) -> int:
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`; with `add_special_tokens`, what the tokenizer's post-processor adds around it."""
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation by the checkpoint's template.

        The template came with the checkpoint and is not trusted: it runs in jinja2's immutable sandbox.

        Raises
        ------
        DataError
            if there is no template, or it fails or tries to leave the sandbox.
        """
        if self._template is None:
            raise DataError(
                "this tokenizer has no chat template: use rows of prompt and completion, or a named template"
            )
        try:
            return self._template.render(
                messages=[dict(m) for m in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token or "",
                eos_token=self.eos_token or "",
                pad_token=self.pad_token or "",
                unk_token=self.unk_token or "",
                tools=None,
                documents=None,
            )
        except (jinja2.TemplateError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise DataError(f"the chat template failed on these messages: {error}") from error

    @cached_property
    def _template(self) -> jinja2.Template | None:
        """The compiled template, in the environment that transformers gives it."""
        if self.chat_template is None:
            return None
        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        sandbox.globals["raise_exception"] = _refuse
        sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return sandbox.from_string(self.chat_template)
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template is not valid Jinja: {error}") from error


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _content(token: Any) -> str | None:
    """A special token's text: a string, or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is not there."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a JSON object")
    return values


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (tokenizer.json, tokenizer_config.json, chat_template.jinja).

    Raises
    ------
    DataError
        if tokenizer.json is missing or damaged.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{folder}: there is no tokenizer.json. Save the checkpoint's fast tokenizer there, or give rows that hold "
            "input_ids and labels, which need no tokenizer"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path}: not a tokenizer of the `tokenizers` library ({error})") from error
    config = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    template = config.get("chat_template")
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    if isinstance(template, list):  # several named templates
        template = next((t.get("template") for t in template if t.get("name") == "default"), None)
    return Tokenizer(backend, config, template if isinstance(template, str) else None)
