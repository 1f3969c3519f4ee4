"""The tokenizer of a Hugging Face folder, under transformers' rules of which file says what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from tlora_ref.data.special_tokens import named_tokens, with_class_defaults
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.errors import DataError, reason
from tlora_ref.files import parse_json


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, and what the files beside it say.

    As in transformers (5.24): special_tokens_map.json overrides tokenizer_config.json, and added_tokens.json adds to
    it, but neither is read where that has `added_tokens_decoder`; chat_template.jinja goes before the template in
    tokenizer_config.json; tokens that neither names are those of the tokenizer's class.

    Raises
    ------
    DataError
        if tokenizer.json is missing, or a file is damaged.

    Warns where a named token is in no vocabulary.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{folder}: there is no tokenizer.json. Save the checkpoint's fast tokenizer there, or give rows that hold "
            "input_ids and labels, which need no tokenizer"
        )
    backend = _backend(path)
    config = _json(folder / "tokenizer_config.json")
    older = {} if "added_tokens_decoder" in config else _json(folder / "special_tokens_map.json")
    tokens = {} if "added_tokens_decoder" in config else _json(folder / "added_tokens.json")
    model = _json(folder / "config.json")
    try:
        config = {
            **config,
            **older,
            **({"added_tokens_decoder": _added(tokens, {**config, **older})} if tokens else {}),
        }
        config = with_class_defaults(config, model, set(backend.get_vocab()))
        return Tokenizer(backend, config, _templates(folder, config.get("chat_template")))
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


def _backend(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises bare Exception, and panics that are not even that
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise DataError(f"{path}: not a tokenizer of the `tokenizers` library ({reason(error)})") from error


def _added(tokens: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What added_tokens.json ({token: id}, the file of older versions) says, as `added_tokens_decoder` says it."""
    found, special = {}, set(named_tokens(config).values())
    for token, i in tokens.items():
        if type(i) is not int or i < 0:
            raise DataError(f"added_tokens.json: the id of {token[:60]!a} is {str(i)[:40]}, expected a whole number")
        found[str(i)] = {"content": token, "special": token in special, "normalized": token not in special}
    return found


def _templates(folder: Path, configured: Any) -> dict[str, str]:
    """{name: source} of the chat templates; the one that is used unless another is asked for is "default"."""
    found = {}
    if isinstance(configured, str):
        found["default"] = configured
    elif isinstance(configured, list):
        for entry in configured:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("name", "template")):
                raise DataError('tokenizer_config.json: "chat_template" must be a text, or a list of name and template')
            found[entry["name"]] = entry["template"]
    elif configured is not None:
        raise DataError(f'tokenizer_config.json: "chat_template" is {type(configured).__name__}, expected a text')
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, file in files.items():
        if file.is_file():
            found[name] = _text(file)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is not there."""
    if not path.is_file():
        return {}
    try:
        values = parse_json(_text(path))
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({reason(error)})") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
