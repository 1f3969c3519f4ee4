"""Messages as people have them: OpenAI's, TRL's prompt and completion, ShareGPT's; checked, and brought to one form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tlora_ref.errors import DataError

ROLES = ("system", "user", "assistant", "tool", "developer", "function", "ipython")
#: Whether a message is learnt: OpenAI's and Mistral's `weight`, axolotl's `train` and `training`, ms-swift's `loss`.
LEARNT = ("weight", "train", "training", "loss")
#: What else by its name says what is learnt of a message, in a way that is not known here.
OTHERWISE = re.compile(r"(^|_)(loss|mask(ed)?|train(ed|able|ing)?|weights?|learn(t|ed)?|ignored?)(_|$)", re.IGNORECASE)
#: Who speaks, under ShareGPT's names.
SHAREGPT = {
    **{"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant"},
    **{"bot": "assistant", "model": "assistant", "function_call": "assistant", "system": "system", "tool": "tool"},
    **{"observation": "tool", "function_response": "tool"},
}

Message = dict[str, Any]


def conversation(where: str, name: str, value: Any, system: Any = None) -> list[Message]:
    """The messages of one field: a list of {"role", "content"}, or of ShareGPT's {"from", "value"}.

    Parameters
    ----------
    name : the field, for errors
    system : a system message that a row keeps beside its turns, as ShareGPT's rows may

    Raises
    ------
    DataError
        naming the message and what is wrong with it.
    """
    if isinstance(value, str):  # a cell of CSV can hold nothing else
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list) or not value:
        raise DataError(f'{where}: field "{name}" must be a list of {{"role": ..., "content": ...}}, not empty')
    messages = [_message(where, f"{name}[{i}]", message) for i, message in enumerate(value)]
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def check_learnable(where: str, messages: list[Message]) -> None:
    """DataError if no message is the assistant's."""
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message is the assistant's: there is nothing to learn from this row")


def learnt(message: Mapping[str, Any]) -> bool:
    """Whether a message may be learnt: none of LEARNT says no."""
    return all(message.get(name) in (None, 1) for name in LEARNT)


def _message(where: str, at: str, message: Any) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{where}: {at} must have a string role and a string content")
    said = {name: value for name, value in message.items() if value is not None}
    role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
    if not isinstance(role, str):
        raise DataError(f"{where}: {at} must have a string role and a string content")
    known = role if role in ROLES else SHAREGPT.get(role.lower(), role.lower())
    if known not in ROLES:
        names = ", ".join(dict.fromkeys([*ROLES, *SHAREGPT]))
        raise DataError(f"{where}: {at} is from {role[:40]!a}, expected one of {names}")
    calls = said.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls)):
        raise DataError(f"{where}: {at}: tool_calls must be a list of objects")
    if "function_call" in said:
        raise DataError(
            f"{where}: {at} has a function_call, the form before tool_calls, which templates do not know: write "
            '"tool_calls": [{"type": "function", "function": {"name": ..., "arguments": ...}}]'
        )
    _check_learnt(where, at, said, known)
    kept = {name: value for name, value in message.items() if name not in ("from", "value")}
    return {**kept, "role": known, "content": _content(where, at, content, bool(calls))}


def _check_learnt(where: str, at: str, said: Mapping[str, Any], role: str) -> None:
    """DataError where a message says, but not by 0 or 1, whether it is learnt, or asks to learn what others say."""
    for name in LEARNT:
        if name in said and said[name] not in (0, 1):
            raise DataError(
                f"{where}: {at}: {name} is {str(said[name])[:40]!a}: learnt is 1 or true, not learnt 0 or false"
            )
        if said.get(name) == 1 and role != "assistant":
            raise DataError(
                f"{where}: {at}: {name} asks to learn a message of the role {role}: only the assistant's are learnt. "
                f"Leave {name} out there"
            )
    _refuse_otherwise(where, at, said, LEARNT)


def _refuse_otherwise(where: str, at: str, said: Mapping[str, Any], known: tuple[str, ...] = ()) -> None:
    """DataError for a key that by its name says what is learnt, and is not one of those known."""
    for name, value in said.items():
        if value is not None and name not in known and OTHERWISE.search(str(name)):
            raise DataError(
                f"{where}: {at} has {str(name)[:40]!a}, which is not read: whether a whole message is learnt is told "
                f"by {', '.join(LEARNT[:-1])} or {LEARNT[-1]}, 1 or 0. Say it so, or leave it out"
            )


def _content(where: str, at: str, content: Any, calls: bool) -> Any:
    """A message's words: text, parts of text, or none beside tool calls."""
    if isinstance(content, str) or (content is None and calls):
        return content
    if not isinstance(content, list):
        raise DataError(
            f"{where}: {at} must have a string role and a string content (or a list of parts, or null beside "
            "tool_calls)"
        )
    return [_part(where, at, part) for part in content]


def _part(where: str, at: str, part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        _refuse_otherwise(where, f"{at}, in a part,", part)
        return {**part, "type": "text"}
    said = str(kind or type(part).__name__)[:40]
    raise DataError(
        f"{where}: {at} has a part of the type {said!a}: models of text take parts of the type text alone. Leave the "
        "row out, or put into words what it shows"
    )
