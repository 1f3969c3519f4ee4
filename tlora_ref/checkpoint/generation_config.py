"""What a checkpoint says of generation: where it ends, as transformers reads it; and what is not applied here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tlora_ref.checkpoint.reader import read_json, shown
from tlora_ref.errors import CheckpointError

#: How generation_config.json chooses tokens: key -> the values that change nothing. The first four act with do_sample.
CHOICES: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 1.0),
    "top_k": (None, 0),
    "top_p": (None, 1.0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "do_sample": (None, False),
    "repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "stop_strings": (None, []),
}
DRAWN = ("temperature", "top_k", "top_p", "min_p", "typical_p")


def choices_of(folder: Path) -> dict[str, Any]:
    """What generation_config.json asks for in choosing tokens and transformers' `generate` would do; {} without it.

    Nothing of it is applied here: the caller says how tokens are chosen. CheckpointError if the file is damaged.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    values = read_json(path)
    found = {key: values[key] for key, none in CHOICES.items() if key in values and values[key] not in none}
    return found if "do_sample" in found else {key: value for key, value in found.items() if key not in DRAWN}


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
