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


def test_what_says_nothing_of_what_is_learnt_is_the_templates() -> None:
    said = {"reasoning_content": "r", "thinking": "t", "name": "n", "lossless": 1, "masked": None, "weighted_by": 3}
    values = {"messages": [{**USER, "train": False}, {**ASSISTANT, **said}]}
    assert row(**values).values["messages"][1] == {**ASSISTANT, **said}


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
        ({"messages": [{"role": "wizard", "content": "b"}]}, "is from 'wizard', expected one of system, user"),
        ({"conversations": [{"from": "alien", "value": "b"}]}, "from 'alien', expected one of system"),
        ({"conversations": [{"from": ["x"], "value": "b"}]}, r"conversations\[0\] must have a string role"),
        (
            {"messages": [USER, {**ASSISTANT, "function_call": {"name": "f"}}]},
            "function_call, the form before tool_calls",
        ),
        ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "weight is '0.5': learnt is 1"),
        ({"messages": [USER, {**ASSISTANT, "train": "no"}]}, "train is 'no': learnt is 1"),
        ({"messages": [USER, {**ASSISTANT, "loss": 0.5}]}, "loss is '0.5': learnt is 1"),
        ({"messages": [USER, {**ASSISTANT, "loss_mask": 0}]}, r"messages\[1\] has 'loss_mask', which is not read"),
        ({"messages": [USER, {**ASSISTANT, "mask": True}]}, "'mask', which is not read"),
        ({"conversations": [{"from": "gpt", "value": "b", "train_detail": []}]}, "'train_detail', which is not read"),
        ({"messages": [USER, {**ASSISTANT, "trainable": False}]}, "'trainable'.*by weight, train, training or loss"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "b", "weight": 0}]}]},
            r"messages\[0\], in a part, has 'weight'",
        ),
        ({"messages": [{**USER, "train": True}, ASSISTANT]}, "asks to learn a message of the role user"),
        ({"messages": [USER, ASSISTANT], "images": ["a.png"]}, 'the row has "images"'),
        ({"prompt": "a", "completion": "b", "image": {"bytes": "x"}}, 'the row has "image"'),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, 'earlier turns in "history"'),
        ({"prompt": "a", "completion": "b", "label": False}, "a completion to be avoided"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "Preferences are not learnt here.*--field completion=chosen"),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}, "--field messages=chosen"),
        ({"prompt": "a", "response": "b"}, r"did you mean --field completion=response\?"),
        ({"instruction": "a", "response": "b"}, r"did you mean --field output=response\?"),
        ({"question": "a", "answer": "b"}, "--field prompt=question"),
        ({"input": "a", "output": "b"}, r"did you mean --field prompt=input,completion=output\?"),
        ({"dialog": [USER, ASSISTANT]}, r"did you mean --field messages=dialog\?"),
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


@pytest.mark.parametrize(
    "turn",
    [
        {"from": "human", "value": "a"},
        {"from": "Human", "value": "a"},
        {"role": "human", "content": "a"},
        {"role": "User", "value": "a"},
        {"from": "user", "content": "a"},
        {"from": "human", "value": "a", "role": None, "content": None},  # a table of mixed rows has every column
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    ],
)
def test_the_forms_of_a_turn_may_be_mixed(turn: dict[str, Any]) -> None:
    (message, _) = row(messages=[turn, {"from": "GPT", "value": "b"}]).values["messages"]
    assert message["role"] == "user" and message["content"] in ("a", [{"type": "text", "text": "a"}])


def test_fields_that_are_null_name_no_form() -> None:
    empty = dict.fromkeys(("messages", "prompt", "completion", "instruction", "text", "input_ids"))
    assert row(**{**empty, "text": "a"}).form == "text"
    assert row(**{**empty, "prompt": "a", "completion": "b"}).form == "pair"
    assert row(**{**empty, "instruction": "a", "output": "b"}).form == "pair"
    assert row(**{**empty, "conversations": [USER, ASSISTANT]}).form == "messages"


@pytest.mark.parametrize(
    ("values", "ids", "labels"),
    [
        ({"labels": [1, 2, 3], "attention_mask": [1, 1, 0]}, [1, 2], [1, 2]),
        ({"labels": [1, 2, 3], "attention_mask": [0, 1, 1]}, [2, 3], [2, 3]),
        ({"labels": [1, 2, 3], "loss_mask": [0, 1, 1]}, [1, 2, 3], [-100, 2, 3]),
        ({"completion_mask": [0, 1, 1]}, [1, 2, 3], [-100, 2, 3]),
        ({"completion_mask": [0, 1, 1], "assistant_masks": [1, 1, 0]}, [1, 2, 3], [-100, 2, -100]),
        ({"assistant_masks": [0, 1, 1], "attention_mask": [1, 1, 0]}, [1, 2], [-100, 2]),
        ({"labels": 1, "attention_mask": [1, 1, 0]}, [1, 2], 1),
    ],
)
def test_masks_of_tokens_say_what_is_padding_and_what_is_scored(values: Any, ids: Any, labels: Any) -> None:
    found = row(input_ids=[1, 2, 3], **values).values
    assert (found["input_ids"], found["labels"]) == (ids, labels)


@pytest.mark.parametrize("mask", [[1, 0, 1], [1, 1], [1, 2, 1], "110"])
def test_a_mask_that_cannot_be_meant_is_refused(mask: Any) -> None:
    with pytest.raises(DataError, match="attention_mask"):
        row(input_ids=[1, 2, 3], labels=[1, 2, 3], attention_mask=mask)
