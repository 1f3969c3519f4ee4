"""Files of prompts: rows of which the response is still to be made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlora_ref.data.messages import SHAREGPT
from tlora_ref.data.records import records
from tlora_ref.data.rows import Row, row_of
from tlora_ref.errors import DataError

#: Stands where the response will be.
ANSWER = {"role": "assistant", "content": ""}


def load_prompts(path: str | Path, fields: Mapping[str, str] | None = None) -> list[tuple[dict[str, Any], Row]]:
    """(record, row) of every row of a file: {"prompt": ...}, {"messages": [...]}, {"instruction": ..., "input": ...},
    or a text alone; whatever else a record has is kept in it.

    A conversation that ends with the assistant's words is asked for these words anew; any other, for what follows.

    Parameters
    ----------
    fields : as of `load_dataset`

    Raises
    ------
    DataError
        naming file, line and field.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file of prompts")
    found = []
    for where, record in records(Path(path)):
        record = {"prompt": record} if isinstance(record, str) else record
        row = row_of(where, _asked(where, record, fields or {}) if isinstance(record, dict) else record, {})
        if row.form not in ("pair", "messages"):
            raise DataError(f"{where}: a row of {row.form} is no prompt: expected prompt, messages or instruction")
        found.append((dict(record), row))
    if not found:
        raise DataError(f"{path}: the file holds no prompts")
    return found


def _asked(where: str, record: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """A record under our names, its response empty."""
    missing = [theirs for theirs in fields.values() if theirs not in record]
    if missing:
        raise DataError(
            f'{where}: field "{missing[0]}" is missing; the row has {", ".join(map(str, record)) or "none"}'
        )
    values = {**record, **{ours: record[theirs] for ours, theirs in fields.items()}}
    for name in ("messages", "conversations"):
        turns = values.get(name)
        if isinstance(turns, list) and turns and not _answers(turns[-1]):
            values[name] = [*turns, ANSWER]
    if "prompt" in values:
        values["completion"] = [ANSWER] if isinstance(values["prompt"], list) else ""
    elif "instruction" in values:
        values["output"] = ""
    return values


def _answers(message: Any) -> bool:
    """Whether a message, in either form, is the assistant's."""
    return isinstance(message, Mapping) and message.get("role", SHAREGPT.get(str(message.get("from")))) == "assistant"
