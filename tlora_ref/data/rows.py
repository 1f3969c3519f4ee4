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
    **dict.fromkeys(("conversation", "dialog", "dialogue", "chat"), "messages"),
    **{"content": "text", "document": "text", "label": "labels", "tokens": "input_ids"},
}


#: What scores a row's tokens beside labels, or in their place (TRL's names and one more).
MASKS = ("completion_mask", "assistant_masks", "loss_mask")


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
        messages are the prompt and not learnt. Of pairs: "system", a system message that chat templates are given
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
    form = _form(where, values)
    if form == "tokens":
        return Row("tokens", _tokens(where, values), where)
    _check_beside(where, values)
    if form == "messages":
        return _conversation(where, values)
    if form == "turns":
        return _conversational_pair(where, values)
    if form == "text":
        return Row("text", _texts(where, values, ("text",)), where)
    if form == "instruction":
        values = {**values, "input": "" if values.get("input") is None else values["input"]}
    names = ("prompt", "completion") if form == "pair" else ("instruction", "input", "output")
    system = values.get("system")
    extra = {"system": system} if isinstance(system, str) and system.strip() else {}
    return Row("pair", _texts(where, values, names), where, _answer(values.get("answer")), extra)


def _form(where: str, values: Mapping[str, Any]) -> str:
    """Which form a row has. Fields that are null are there only where nothing else says it: in a table of mixed rows
    every row has every column."""
    for there in ({name for name, value in values.items() if value is not None}, set(values)):
        if "input_ids" in there:
            return "tokens"
        if there & {"messages", "conversations"}:
            return "messages"
        if "prompt" in there or "completion" in there:
            lists = any(isinstance(values.get(name), list) for name in ("prompt", "completion"))
            return "turns" if lists else "pair"
        if "instruction" in there or "output" in there:
            return "instruction"
        if "text" in there:
            return "text"
    raise DataError(
        f"{where}: no known form: expected messages, prompt and completion, instruction and output, text, or input_ids "
        f"and labels; the row has {', '.join(map(str, values)) or 'no fields'}. {_mapped(values)}"
    )


def _mapped(values: Mapping[str, Any], name: str | None = None) -> str:
    """How to map the names that a row has: the one that may be meant by `name`, or all that are known."""
    pairs = [f"{ours}={theirs}" for theirs, ours in NAMES_ELSEWHERE.items() if theirs in values and ours not in values]
    if name == "instruction" and values.get("input"):
        pairs = ["prompt=input,completion=output"]
    elif name == "output":
        pairs = [pair.replace("completion", "output").replace("prompt", "input") for pair in pairs]
    elif name is not None:
        pairs = [pair for pair in pairs if pair.startswith(f"{name}=")]
    if "rejected" in values:
        return "Preferences are not learnt here: take the chosen answers alone, " + (
            "--field messages=chosen"
            if isinstance(values.get("chosen"), list) and "prompt" not in values
            else "--field completion=chosen"
        )
    if pairs:
        return f"Map other names (did you mean --field {','.join(pairs)}?)"
    return "Map other names, e.g. --field prompt=question"


def _check_beside(where: str, values: Mapping[str, Any]) -> None:
    """DataError for what would change the meaning of a row's text and cannot be learnt."""
    for name in ("images", "image", "videos", "video", "audios", "audio"):
        if values.get(name):
            raise DataError(f'{where}: the row has "{name}": models of text learn no such rows. Leave the row out')
    if values.get("history"):
        raise DataError(f'{where}: the row has earlier turns in "history": bring it as messages')
    if values.get("label") is False:
        raise DataError(f"{where}: label is false (KTO): a completion to be avoided. Leave the row out")


def _answer(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(where: str, values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The named fields, each a string; the last one (what is learnt) may be null, which is empty."""
    found = {}
    for name in names:
        if name not in values:
            raise DataError(
                f'{where}: field "{name}" is missing (the row has {", ".join(map(str, values))}). '
                f"{_mapped(values, name)}"
            )
        value = "" if values[name] is None and name == names[-1] else values[name]
        if not isinstance(value, str):
            kind = "null" if value is None else type(value).__name__
            raise DataError(f'{where}: field "{name}" is {kind}, expected a string: write text in quotes')
        found[name] = value
    return found


def _conversation(where: str, values: Mapping[str, Any]) -> Row:
    name = "conversations" if values.get("messages") is None and "conversations" in values else "messages"
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
    masks = [values[name] for name in MASKS if values.get(name) is not None]
    if "labels" not in values and not masks:
        raise DataError(f'{where}: field "labels" is missing: rows of input_ids need labels (-100 where not scored)')
    names = ("input_ids", "labels", "token_type_ids", "attention_mask", *MASKS)
    chosen = {name: values[name] for name in names if values.get(name) is not None}
    for name, numbers in chosen.items():
        if name == "labels" and type(numbers) is int:
            continue
        if not isinstance(numbers, list) or not numbers or not all(type(n) is int for n in numbers):
            raise DataError(f'{where}: field "{name}" must be a list of integers, not empty')
        if any(abs(n) >= 2**31 for n in numbers):
            raise DataError(f'{where}: field "{name}" holds a number beyond any vocabulary')
    if "input_ids" not in chosen:
        raise DataError(f'{where}: field "input_ids" is null: expected a list of integers')
    return _masked(where, chosen)


def _masked(where: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """input_ids, labels and token_type_ids without padding (`attention_mask` 0), and scored where every mask is 1."""
    masks = {name: chosen.pop(name) for name in ("attention_mask", *MASKS) if name in chosen}
    for name, mask in masks.items():
        if len(mask) != len(chosen["input_ids"]) or not set(mask) <= {0, 1}:
            raise DataError(f'{where}: field "{name}" must hold a 0 or 1 for every token of input_ids')
    labels = chosen.setdefault("labels", list(chosen["input_ids"]))
    attended = masks.pop("attention_mask", [1] * len(chosen["input_ids"]))
    if isinstance(labels, list) and masks:
        if len(labels) != len(attended):
            raise DataError(f"{where}: labels and {next(iter(masks))} differ in length")
        scored = [all(bits) for bits in zip(*masks.values(), strict=True)]
        chosen["labels"] = [label if on else -100 for label, on in zip(labels, scored, strict=True)]
    kept = [i for i, on in enumerate(attended) if on]
    if kept != list(range(kept[0] if kept else 0, kept[-1] + 1 if kept else 0)):
        raise DataError(f'{where}: "attention_mask" leaves out tokens between others: only padding may be left out')
    return {
        name: [numbers[i] for i in kept] if isinstance(numbers, list) and len(numbers) == len(attended) else numbers
        for name, numbers in chosen.items()
    }
