"""The tokens at which a checkpoint's generation ends, as transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlora_ref.checkpoint.reader import read_json, shown
from tlora_ref.errors import CheckpointError


def end_tokens(folder: Path) -> tuple[int, ...]:
    """The `eos_token_id`, one or several, of generation_config.json; of config.json where the folder has no such file.

    A generation_config.json that names none means none, whatever config.json says: transformers (5.24) reads one file
    or the other, and so does this.

    Raises
    ------
    CheckpointError
        if the file is damaged, or what it names is no token id or list of them.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        path = folder / "config.json"
    value = read_json(path).get("eos_token_id")
    tokens = [] if value is None else value if isinstance(value, list) else [value]
    if not all(_is_id(token) for token in tokens):
        raise CheckpointError(
            f'{path}: "eos_token_id" is {shown(str(value))}, expected the id of the token that ends a text, or a list '
            "of such ids"
        )
    return tuple(dict.fromkeys(tokens))


def _is_id(token: Any) -> bool:
    return type(token) is int and abs(token) < 2**31
