"""Messages as people have them, and every one that cannot be right."""

from __future__ import annotations

from typing import Any

import pytest

from tlora_ref.data.rows import Row
from tlora_ref.data.rows import row_of as read
from tlora_ref.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def row(**values: Any) -> Row:
    return read("a row", values, {})


def said(found: Row) -> list[tuple[str, Any]]:
    return [(m["role"], m["content"]) for m in found.values["messages"]]


def test_roles_and_forms_of_content() -> None:
    for role in ("system", "developer", "tool", "function"):
        assert said(row(messages=[{"role": role, "content": "s"}, USER, ASSISTANT]))[0] == (role, "s")
    parts = [{"type": "text", "text": "a"}, "b"]
    (_, content), _ = said(row(messages=[{"role": "user", "content": parts}, ASSISTANT]))
    assert content == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert row(messages=[USER, call]).values["messages"][1]["tool_calls"] == call["tool_calls"]
    kept = {"role": "assistant", "content": "b", "name": "Bob", "reasoning_content": "r"}
    assert row(messages=[USER, kept]).values["messages"][1] == kept


@pytest.mark.parametrize(
    ("turns", "roles"),
    [
        ([("human", "x"), ("gpt", "y")], ["user", "assistant"]),
        ([("system", "s"), ("user", "x"), ("assistant", "y")], ["system", "user", "assistant"]),
        ([("human", "x"), ("chatgpt", "y")], ["user", "assistant"]),
        (
            [("human", "x"), ("function_call", "f()"), ("observation", "7"), ("gpt", "y")],
            ["user", "assistant", "tool", "assistant"],
        ),
    ],
)
def test_sharegpt(turns: list[tuple[str, str]], roles: list[str]) -> None:
    listed = [{"from": who, "value": words} for who, words in turns]
    assert said(row(conversations=listed)) == list(zip(roles, [words for _, words in turns], strict=True))
    assert said(row(messages=listed)) == said(row(conversations=listed))
    beside = said(row(conversations=listed, system="be"))
    assert beside[0] == (("system", "s") if roles[0] == "system" else ("system", "be"))


def test_trl_prompt_and_completion_as_messages() -> None:
    found = row(prompt=[USER], completion=[ASSISTANT])
    assert found.form == "messages" and said(found) == [("user", "a"), ("assistant", "b")]
    assert found.extra == {"given": 1}


def test_what_the_template_is_given_beside() -> None:
    found = row(messages=[USER, ASSISTANT], tools=[{"a": 1}], documents=[], chat_template_kwargs={"x": True}, id=7)
    assert found.extra == {"tools": [{"a": 1}], "documents": None, "template_options": {"x": True}}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"messages": "no list"}, 'field "messages" must be a list'),
        ({"messages": {}}, 'field "messages" must be a list'),
        ({"conversations": []}, 'field "conversations" must be a list'),
        ({"messages": ["a"]}, r"messages\[0\] must have a string role"),
        ({"messages": [USER, {"role": 3, "content": "a"}]}, r"messages\[1\] must have a string role"),
        ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, r"messages\[0\] must have"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, r"messages\[0\] must have"),
        ({"messages": [{"role": "user", "content": 3}, ASSISTANT]}, r"messages\[0\] must have"),
        ({"messages": [{"role": "user", "content": {"text": "a"}}, ASSISTANT]}, r"messages\[0\] must have"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ASSISTANT]}, "type 'image'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT]}, "models of text take"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, ASSISTANT]}, "'input_audio'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}, ASSISTANT]}, "type 'text'"),
        ({"messages": [{"role": "user", "content": [3]}, ASSISTANT]}, "type 'int'"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}, ASSISTANT]}, "has a part of the type"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, r"messages\[1\] must have"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": "f"}]}, "tool_calls must be a list"),
        ({"messages": [USER, {"role": "assistant", "content": "b", "tool_calls": [1]}]}, "tool_calls must be a list"),
        ({"messages": [{"role": "model", "content": "b"}]}, '"model", expected system, user'),
        ({"conversations": [{"from": "alien", "value": "b"}]}, "from 'alien', expected human"),
        ({"conversations": [{"from": ["x"], "value": "b"}]}, "is from"),
        ({"conversations": [{"from": "human", "value": 3}]}, r"conversations\[0\] must have"),
        ({"messages": [USER]}, "no message is the assistant's"),
        ({"prompt": [USER, ASSISTANT], "completion": [USER]}, "no message is the assistant's"),
        ({"prompt": [USER], "completion": "b"}, "must both be strings, or both lists"),
        ({"prompt": "a", "completion": [ASSISTANT]}, "must both be strings, or both lists"),
        ({"prompt": [USER]}, "must both be strings, or both lists"),
        ({"prompt": [], "completion": [ASSISTANT]}, 'field "prompt" must be a list'),
        ({"messages": [USER, ASSISTANT], "tools": "f"}, 'field "tools" must be a list of objects'),
        ({"messages": [USER, ASSISTANT], "documents": [1]}, 'field "documents" must be a list of objects'),
        ({"messages": [USER, ASSISTANT], "chat_template_kwargs": [1]}, '"chat_template_kwargs" must be an object'),
    ],
)
def test_what_cannot_be_right_is_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match) as error:
        row(**values)
    assert str(error.value).startswith("a row: ")
