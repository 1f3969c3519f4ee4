"""Conversations: their tokens are those of the whole rendering, and of these the assistant's turns are scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_room.kinds import backend_of
from tlora_ref.data import Tokenizer, encode_prompt, encode_rows
from tlora_ref.data.rows import Row
from tlora_ref.data.rows import row_of as read
from tlora_ref.errors import DataError

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|h|>", "<|/h|>", "<|eot|>"]
NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def tokenizer_of(template: str | None, kind: str = "byte-level", **named: str) -> Tokenizer:
    backend = backend_of(kind)
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend, {**NAMED, **named}, template)


def talk(*said: str, first: str = "user") -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant") if first == "user" else ("system", "user", "assistant")
    turns = roles if len(said) <= len(roles) else [*roles, *(("user", "assistant") * len(said))]
    return [{"role": role, "content": content} for role, content in zip(turns, said, strict=False)]


def row_of(messages: list[dict[str, Any]], **beside: Any) -> Row:
    return read("a row", {"messages": messages, **beside}, {})


def scored(tokenizer: Tokenizer, row: Row, template: str = "plain") -> list[str]:
    """The texts of the runs of scored tokens."""
    (sample,), _ = encode_rows([row], tokenizer, template=template)
    runs: list[list[int]] = [[]]
    for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
        if label != -100:
            assert label == token
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """A template, and what it makes of "hi", "one", "and", "two three": the parts that are scored."""

    template: str
    scored: tuple[str, str]


CASES = {
    "ChatML": Case(CHATML, ("one<|im_end|>\n", "two three<|im_end|>\n")),
    "Llama-2": Case(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}",
        (" one </s>", " two three </s>"),
    ),
    "always opens the next turn": Case(
        "{% for m in messages %}{{ '<|h|>' + m['role'] + '<|/h|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
        "{{ '<|h|>assistant<|/h|>\n\n' }}",
        ("one<|eot|>", "two three<|eot|>"),
    ),
    "opens <think> at inference": Case(
        CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"),
        ("one<|im_end|>\n", "two three<|im_end|>\n"),
    ),
    "empty reasoning in the last turn alone": Case(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("one<|im_end|>\n", "<think>\n\n</think>\n\ntwo three<|im_end|>\n"),
    ),
    "counts the messages first": Case(
        "{{ messages | length }} " + CHATML, ("one<|im_end|>\n", "two three<|im_end|>\n")
    ),
    "counts and opens <think>": Case(
        "{{ messages | length }} " + CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"),
        ("one<|im_end|>\n", "two three<|im_end|>\n"),
    ),
    "trims": Case(
        CHATML.replace("m['content']", "(m['content'] | trim)"), ("one<|im_end|>\n", "two three<|im_end|>\n")
    ),
    "alternation is enforced": Case(
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('must alternate') }}{% endif %}{{ '<|h|>' + m['role'].replace('assistant', 'model') }}"
        "{{ '\n' + m['content'] + '<|eot|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|h|>model\n' }}{% endif %}",
        ("one<|eot|>\n", "two three<|eot|>\n"),
    ),
    "the tag says what": Case(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("one<|im_end|>", "two three<|im_end|>"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_answer_is_scored_where_it_stands(name: str) -> None:
    tokenizer = tokenizer_of(CASES[name].template)
    assert scored(tokenizer, row_of(talk("hi", "one", "and", "two three"))) == list(CASES[name].scored)


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_prompt_and_completion_is_a_conversation_of_one_answer(name: str) -> None:
    tokenizer = tokenizer_of(CASES[name].template)
    row = read("a row", {"prompt": "and", "completion": "two three"}, {})
    assert scored(tokenizer, row, "chat") == [CASES[name].scored[1]]
    prompt = encode_prompt(row, tokenizer, "chat")
    opened = tokenizer.apply_chat_template([{"role": "user", "content": "and"}], add_generation_prompt=True)
    assert prompt == tokenizer.encode(opened)


def test_an_answer_that_thinks_begins_after_what_inference_opens() -> None:
    template = CASES["opens <think> at inference"].template
    row = row_of(talk("hi", "<think>\nwell\n</think>\n\none"))
    assert scored(tokenizer_of(template), row) == ["well\n</think>\n\none<|im_end|>\n"]
    row = row_of(talk("hi", "<answer>"))  # shares a character with <think>, which is its own
    assert scored(tokenizer_of(template), row) == ["<answer><|im_end|>\n"]


QWEN3 = """{%- for m in messages %}
{%- set content = m.content %}
{%- if m.role == 'assistant' %}
{%- set reasoning = '' %}
{%- if '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.last %}{{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}{% endif %}
{{- content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


def test_reasoning_that_a_template_drops_from_earlier_turns() -> None:
    """As Qwen3: history keeps the answer alone, the last turn its reasoning too; both scored as they are rendered."""
    turns = talk("hi", "<think>\nA\n</think>\n\none", "and", "<think>\nB\n</think>\n\ntwo")
    assert scored(tokenizer_of(QWEN3), row_of(turns)) == ["one<|im_end|>\n", "<think>\nB\n</think>\n\ntwo<|im_end|>\n"]


def test_a_turn_that_the_template_leaves_out_is_not_scored() -> None:
    last = tokenizer_of(CHATML.replace("in messages", "in messages[-2:]"))
    assert scored(last, row_of(talk("hi", "one", "and", "two"))) == ["two<|im_end|>\n"]


CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def test_tool_calls_that_the_template_leaves_out_are_said() -> None:
    tokenizer = tokenizer_of(
        "{% for m in messages %}{% if m.content %}{{ m.role }}: {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    calling = [*talk("hello", "world"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, *talk("a", "b")]
    _, report = encode_rows([row_of(calling), row_of(talk("hello", "world"))], tokenizer)
    assert report.partial == ["a row"] and "that the chat template does not write" in report.lines()[-1]


@pytest.mark.parametrize("name", ["weight", "train", "training", "loss"])
def test_a_turn_that_is_not_to_be_learnt_is_read_and_not_scored(name: str) -> None:
    first, answer, *more = talk("hello", "world", "how", "are you")
    tokenizer = tokenizer_of(CHATML)
    held = row_of([first, {**answer, name: 0}, *more])
    assert "".join(scored(tokenizer, held)) == "are you<|im_end|>\n"
    assert (
        "".join(scored(tokenizer, row_of([first, {**answer, name: 1}, *more])))
        == "world<|im_end|>\nare you<|im_end|>\n"
    )
    with pytest.raises(DataError, match="no row can be used"):
        encode_rows([row_of([first, {**answer, name: False}])], tokenizer)


def test_a_system_message_beside_a_pair_is_the_chat_templates() -> None:
    pair = read("a row", {"instruction": "hello", "output": "world", "system": "how"}, {})
    tokenizer = tokenizer_of(CHATML)
    (sample,), _ = encode_rows([pair], tokenizer, template="chat")
    assert tokenizer.decode(sample["input_ids"], skip_special_tokens=False).startswith(
        "<|im_start|>system\nhow<|im_end|>\n<|im_start|>user\nhello<|im_end|>"
    )
    with pytest.raises(DataError, match='"system" message, which the template plain has no place for'):
        encode_rows([pair], tokenizer)


@pytest.mark.parametrize("answers", [1, 2])
def test_a_template_that_ends_no_turn_is_said(answers: int) -> None:
    template = CHATML.replace(" + '<|im_end|>\n'", "")
    rows = [row_of(talk("hi", "one", "and", "two")[: 2 * answers])]
    _, report = encode_rows(rows, tokenizer_of(template))
    assert "without a scored end token" in report.lines()[0] and len(report.endless) == 1
    assert scored(tokenizer_of(template), rows[0]) == ["one", "two"][:answers]
    _, report = encode_rows(rows, tokenizer_of(CHATML))
    assert report.lines() == []


def test_a_tag_that_leaves_the_end_token_out_is_said() -> None:
    template = CASES["the tag says what"].template.replace(
        "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}",
        "{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    _, report = encode_rows([row_of(talk("hi", "one"))], tokenizer_of(template))
    assert "without a scored end token" in report.lines()[0]


def test_of_prompt_and_completion_as_messages_the_completion_alone_is_scored() -> None:
    """TRL's conversational form; with a tag too."""
    turns = talk("hi", "one", "and", "two three")
    for name in ("ChatML", "the tag says what", "always opens the next turn"):
        row = read("a row", {"prompt": turns[:3], "completion": turns[3:]}, {})
        tokenizer = tokenizer_of(CASES[name].template)
        assert scored(tokenizer, row) == [CASES[name].scored[1]]
        whole, _ = encode_rows([row_of(turns)], tokenizer)
        assert encode_rows([row], tokenizer)[0][0]["input_ids"] == whole[0]["input_ids"]


TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ '<call>' + (call.function | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}


@pytest.mark.parametrize("count", ["", "{{ messages | length }} "])
def test_tool_calls_are_learnt_and_their_answers_are_not(count: str) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
        {"role": "assistant", "content": "seven"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = '<call>{"name": "f", "arguments": {"x": "1"}}</call>'
    tokenizer = tokenizer_of(count + TOOLS)
    found = scored(tokenizer, row_of(messages, tools=[tool]))
    assert found == [f"{call}<|im_end|>\n", "seven<|im_end|>\n"]
    (sample,), _ = encode_rows([row_of(messages, tools=[tool])], tokenizer)
    assert json.dumps([tool]) in tokenizer.decode(sample["input_ids"])


def test_the_templates_own_options_come_with_the_row() -> None:
    template = "{% if shout %}{{ 'LOUD ' }}{% endif %}" + CHATML
    row = row_of(talk("hi", "one"), chat_template_kwargs={"shout": True})
    (sample,), _ = encode_rows([row], tokenizer_of(template))
    assert tokenizer_of(template).decode(sample["input_ids"]).startswith("LOUD")


def test_content_in_parts_as_the_template_takes_it() -> None:
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "three"}]
    row = row_of(
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": parts}]
    )
    assert scored(tokenizer_of(CHATML), row) == ["two three<|im_end|>\n"]  # it knows text alone
    prints = CHATML.replace("m['content']", "(m['content'] | string)")
    assert scored(tokenizer_of(prints), row) == ["two three<|im_end|>\n"]  # it would print a list
    each = CHATML.replace(
        "m['content'] + '<|im_end|>\n' }}",
        "'' }}{% for p in m['content'] %}{{ p.text | trim }}{% endfor %}{{ '<|im_end|>\n' }}",
    )
    assert scored(tokenizer_of(each), row) == ["twothree<|im_end|>\n"]  # it knows parts


def test_an_empty_answer_is_not_learnt() -> None:
    tokenizer = tokenizer_of(CHATML)
    assert scored(tokenizer, row_of(talk("hi", "", "and", "two"))) == ["two<|im_end|>\n"]
    with pytest.raises(DataError, match=r"no row can be used: 1 row\(s\) left out: no labelled token"):
        encode_rows([row_of(talk("hi", " "))], tokenizer)


def test_reasoning_under_either_name() -> None:
    template = "{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.thinking or '' }}{{ m.content }}{% endfor %}"
    for name in ("reasoning_content", "thinking", "reasoning"):
        message = {"role": "assistant", "content": "x", name: "r"}
        assert tokenizer_of(template).apply_chat_template([message]) == "rrx"


# ---- against transformers ----

WORDS = st.lists(st.sampled_from(["hi", "one", " ", "\n", "é", "日本", "<think>", "a:", "12", "A"]), max_size=5)
SAID = WORDS.map("".join).filter(lambda text: text.strip())


@pytest.mark.parity
@pytest.mark.parametrize(
    "kind", ["byte-level", "byte-level, trimmed", "Prepend and Replace", "Metaspace first", "Unigram"]
)
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15, deadline=None)
@given(said=st.lists(SAID, min_size=1, max_size=3))
def test_the_tokens_are_those_of_transformers(name: str, kind: str, said: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tokenizer_of(CASES[name].template, kind)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.backend, **NAMED)
    messages = talk(*[text for answer in said for text in ("hi", answer)])
    options = {"chat_template": ours.chat_template, "tokenize": True, "return_dict": True}
    (sample,), _ = encode_rows([row_of(messages)], ours)
    if name == "the tag says what":
        found = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
        mask = [label != -100 for label in sample["labels"]]
        assert mask == [bool(m) for m in found["assistant_masks"]]
    else:
        found = theirs.apply_chat_template(messages, **options)
    assert sample["input_ids"] == found["input_ids"]
    prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, **options)
    assert encode_prompt(row_of(messages), ours) == prompt["input_ids"]
