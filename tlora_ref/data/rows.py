"""Dataset files: every row read, checked, and brought to one of four forms."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.errors import DataError

SUFFIXES = (".jsonl", ".json", ".jsonl.gz")
SPLITS = ("train", "valid", "test")
ROLES = ("system", "user", "assistant", "tool")
#: What a field may be called in `fields` (the mapping of own names to ours).
NAMES = ("messages", "prompt", "completion", "instruction", "input", "output", "answer", "text", "input_ids", "labels")


@dataclass(frozen=True)
class Row:
    """One row, as it was read.

    Attributes
    ----------
    form : "tokens" (input_ids, labels), "messages", "pair" (prompt and completion, or instruction, input and output)
        or "text"
    values : the fields of that form, checked, under our names
    where : file and line, for messages
    answer : the row's short answer, where it has one
    """

    form: str
    values: Mapping[str, Any]
    where: str
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def dataset_file(path: str | Path, split: str = "train") -> Path:
    """The file of a split: `path` itself if it is a file, else `<path>/<split>.jsonl` or `.json`."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise DataError(f"{path}: there is no such file or directory of data")
    candidates = [path / f"{split}{suffix}" for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"{path}: there is no {' or '.join(file.name for file in candidates)} in this directory")


def load_dataset(path: str | Path, split: str = "train", fields: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a `.jsonl` or `.json` file (a list), or of a directory's split.

    Parameters
    ----------
    fields : our name -> the file's, for files with names of their own, e.g. {"prompt": "question",
        "completion": "answer"} for GSM8K

    Raises
    ------
    DataError
        naming file, line and field, for whatever is not as it should be; an empty file is one.
    """
    file = dataset_file(path, split)
    unknown = sorted(set(fields or {}) - set(NAMES))
    if unknown:
        raise DataError(f"field name(s) {', '.join(unknown)} are unknown: they can be {', '.join(NAMES)}")
    rows = [_row(where, values, fields or {}) for where, values in records(file)]
    if not rows:
        raise DataError(f"{file}: the file holds no rows")
    return rows


def file_sha256(path: str | Path) -> str:
    """Digest of a data file, for manifests."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """(where, value) of every record, blank lines skipped; a file that ends in .gz is unpacked."""
    try:
        packed = file.read_bytes()
        text = (gzip.decompress(packed) if file.suffix == ".gz" else packed).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if file.suffix == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: not valid JSON ({error})") from error
        if not isinstance(values, list):
            raise DataError(f"{file}: expected a JSON list of rows, found {type(values).__name__}")
        yield from ((f"{file}, row {i}", value) for i, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{file}, line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not valid JSON ({error}). Expected one object a line") from error


def _row(where: str, record: Any, fields: Mapping[str, str]) -> Row:
    """One record as a checked row."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object with named fields, found {type(record).__name__}")
    missing = [theirs for theirs in fields.values() if theirs not in record]
    if missing:
        raise DataError(
            f'{where}: field "{missing[0]}" is missing; the row has {", ".join(map(str, record)) or "none"}'
        )
    taken = set(fields.values())
    values = {name: v for name, v in record.items() if name not in taken and name not in fields}
    values |= {ours: record[theirs] for ours, theirs in fields.items()}
    answer = values.get("answer")
    if "input_ids" in values:
        return Row("tokens", _tokens(where, values), where)
    if "messages" in values:
        return Row("messages", {"messages": _messages(where, values["messages"])}, where)
    if "prompt" in values or "completion" in values:
        return Row("pair", _texts(where, values, ("prompt", "completion")), where, _answer(answer))
    if "instruction" in values or "output" in values:
        chosen = _texts(where, {"input": "", **values}, ("instruction", "input", "output"))
        return Row("pair", chosen, where, _answer(answer))
    if "text" in values:
        return Row("text", _texts(where, values, ("text",)), where)
    raise DataError(
        f"{where}: no known form: expected messages, prompt and completion, instruction and output, text, or input_ids "
        f"and labels; the row has {', '.join(map(str, record)) or 'no fields'}. Map other names, e.g. prompt=question"
    )


def _answer(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(where: str, values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The named fields, each a string; the last one (what is learnt) not empty."""
    for name in names:
        if name not in values:
            raise DataError(f'{where}: field "{name}" is missing (the row has {", ".join(values)})')
        if not isinstance(values[name], str):
            raise DataError(f'{where}: field "{name}" is {type(values[name]).__name__}, expected a string')
    if not values[names[-1]].strip():
        raise DataError(f'{where}: field "{names[-1]}" is empty: there is nothing to learn from this row')
    return {name: values[name] for name in names}


def _messages(where: str, messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{where}: field "messages" must be a list of {{"role": ..., "content": ...}}, not empty')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise DataError(f"{where}: messages[{i}] must have a string role and a string content")
        if message["role"] not in ROLES:
            raise DataError(f'{where}: messages[{i}] has the role "{message["role"]}", expected {", ".join(ROLES)}')
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message is the assistant's: there is nothing to learn from this row")
    return messages


def _tokens(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """input_ids and labels: integer lists of one length, or a class (an integer) for labels."""
    if "labels" not in values:
        raise DataError(f'{where}: field "labels" is missing: rows of input_ids need labels (-100 where not scored)')
    chosen = {name: values[name] for name in ("input_ids", "labels", "token_type_ids") if name in values}
    for name, numbers in chosen.items():
        if name == "labels" and type(numbers) is int:
            continue
        if not isinstance(numbers, list) or not numbers or not all(type(n) is int for n in numbers):
            raise DataError(f'{where}: field "{name}" must be a list of integers, not empty')
        if any(abs(n) >= 2**31 for n in numbers):
            raise DataError(f'{where}: field "{name}" holds a number beyond any vocabulary')
    return chosen
