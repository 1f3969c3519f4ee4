"""Dataset files: every row read, checked, and brought to one of four forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.data.messages import check_learnable, conversation
from tlora_ref.data.records import dataset_file, records
from tlora_ref.errors import DataError, did_you_mean

#: What a field may be called in `fields` (the mapping of own names to ours).
NAMES = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "answer", "text"),
    *("input_ids", "labels"),
)
#: What others call them.
NAMES_ELSEWHERE = {
    **dict.fromkeys(("response", "answer_text", "target", "chosen", "reply", "summary", "label_text"), "completion"),
    **dict.fromkeys(("question", "query", "source", "context", "problem"), "prompt"),
    **dict.fromkeys(("conversation", "dialog", "chat"), "messages"),
    **{"content": "text", "document": "text", "label": "labels", "tokens": "input_ids"},
}


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
    extra : what goes along. Of messages: "tools", "documents", "template_options"; "given", how many of the first
        messages are the prompt and not learnt
    """

    form: str
    values: Mapping[str, Any]
    where: str
    answer: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def load_dataset(path: str | Path, split: str = "train", fields: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a file (JSON Lines, JSON, CSV, TSV, Parquet), or of a directory's split. Rows that have nothing to
    learn, such as an empty completion, are among them: `encode_rows` leaves them out and counts them.

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
        raise DataError(
            f"field name(s) {', '.join(unknown)} are unknown: they can be {', '.join(NAMES)}"
            f"{_field_hint(unknown[0], str((fields or {})[unknown[0]]))}"
        )
    rows = [row_of(where, values, fields or {}) for where, values in records(file)]
    if not rows:
        raise DataError(f"{file}: the file holds no rows")
    return rows


def _field_hint(ours: str, theirs: str) -> str:
    """For an unknown name of ours: the pair the other way round, if that makes sense, or the nearest name."""
    return f" (did you mean {theirs}={ours}?)" if theirs in NAMES else did_you_mean(ours, NAMES, NAMES_ELSEWHERE)


def row_of(where: str, record: Any, fields: Mapping[str, str]) -> Row:
    """One record as a checked row; DataError naming what is wrong with it."""
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
    if "messages" in values or "conversations" in values:
        return _conversation(where, values)
    if isinstance(values.get("prompt"), list) or isinstance(values.get("completion"), list):
        return _conversational_pair(where, values)
    if "prompt" in values or "completion" in values:
        return Row("pair", _texts(where, values, ("prompt", "completion")), where, _answer(answer))
    if "instruction" in values or "output" in values:
        values = {**values, "input": "" if values.get("input") is None else values["input"]}
        return Row("pair", _texts(where, values, ("instruction", "input", "output")), where, _answer(answer))
    if "text" in values:
        return Row("text", _texts(where, values, ("text",)), where)
    raise DataError(
        f"{where}: no known form: expected messages, prompt and completion, instruction and output, text, or input_ids "
        f"and labels; the row has {', '.join(map(str, record)) or 'no fields'}. Map other names, e.g. prompt=question"
    )


def _answer(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(where: str, values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The named fields, each a string; the last one (what is learnt) may be null, which is empty."""
    found = {}
    for name in names:
        if name not in values:
            raise DataError(f'{where}: field "{name}" is missing (the row has {", ".join(map(str, values))})')
        value = "" if values[name] is None and name == names[-1] else values[name]
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            raise DataError(f'{where}: field "{name}" is {kind}, expected a string: write text in quotes')
        found[name] = value
    return found


def _conversation(where: str, values: Mapping[str, Any]) -> Row:
    name = "messages" if "messages" in values else "conversations"
    messages = conversation(where, name, values[name], values.get("system"))
    check_learnable(where, messages)
    return Row("messages", {"messages": messages}, where, extra=_beside(where, values))


def _conversational_pair(where: str, values: Mapping[str, Any]) -> Row:
    """TRL's conversational form: prompt and completion are lists of messages, and the completion's are learnt."""
    parts = []
    for name in ("prompt", "completion"):
        if not isinstance(values.get(name), list):
            raise DataError(f"{where}: prompt and completion must both be strings, or both lists of messages")
        parts.append(conversation(where, name, values[name]))
    check_learnable(where, parts[1])
    extra = {**_beside(where, values), "given": len(parts[0])}
    return Row("messages", {"messages": parts[0] + parts[1]}, where, extra=extra)


def _beside(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a conversation keeps beside its messages for the template: tools, documents, the template's own options."""
    found: dict[str, Any] = {}
    for name in ("tools", "documents"):
        value = values.get(name)
        if value is not None:
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise DataError(f'{where}: field "{name}" must be a list of objects')
            found[name] = value or None
    options = values.get("chat_template_kwargs")
    if options is not None:
        if not isinstance(options, dict):
            raise DataError(f'{where}: field "chat_template_kwargs" must be an object')
        found["template_options"] = options
    return found


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
