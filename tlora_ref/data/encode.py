"""Rows to samples: tokens, labels on the response alone, and a report of what was left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.data.rows import Row
from tlora_ref.data.templates import CHAT, check_template, prompt_text
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.errors import ConfigError, DataError

#: Labels with this value are not scored.
IGNORED = -100
TOO_LONG = ("drop", "truncate")
#: What a model makes of a row: one sequence that goes on, an answer to an encoded prompt, or a class.
FORMS = ("causal", "seq2seq", "classes")

Sample = dict[str, Any]


@dataclass
class EncodingReport:
    """What became of the rows: how many are samples, and which were dropped or cut, by where they stand."""

    samples: int = 0
    too_long: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    truncated: bool = False
    max_length: int | None = None

    def lines(self) -> list[str]:
        """Sentences for a person; none if every row was used whole."""
        said = []
        if self.too_long:
            verb = "cut to" if self.truncated else "left out: longer than"
            said.append(f"{len(self.too_long)} row(s) {verb} {self.max_length} tokens (first: {self.too_long[0]})")
        if self.unlabelled:
            said.append(f"{len(self.unlabelled)} row(s) left out: no labelled token (first: {self.unlabelled[0]})")
        return said


def encode_rows(
    rows: Sequence[Row],
    tokenizer: Tokenizer | None,
    *,
    template: str = "plain",
    max_length: int | None = None,
    too_long: str = "drop",
    vocab_size: int | None = None,
    form: str = "causal",
    class_names: Sequence[str] = (),
) -> tuple[list[Sample], EncodingReport]:
    """Samples {"input_ids", "labels"} of all rows that can be used, and a report of those that cannot.

    The prompt and the response are tokenised apart, so the boundary between unscored and scored tokens is exact; the
    response ends with the end-of-sequence token, which is scored. A begin-of-sequence token is put first if the
    tokenizer puts one there itself. In `messages` rows every assistant turn is scored; in `text` rows every token.

    Parameters
    ----------
    tokenizer : may be None if all rows hold input_ids
    template : a named template for pairs, or "chat" for the tokenizer's own
    max_length : the context; longer samples are dropped, or cut at the end if too_long="truncate"
    vocab_size : the model's; ids outside are an error
    form : "causal"; "seq2seq" (input_ids hold the prompt, labels the response); or "classes" (labels is one of
        `class_names`, or its number, as the response says)

    Raises
    ------
    DataError, ConfigError
    """
    check_template(template)
    if too_long not in TOO_LONG:
        raise ConfigError(f"too_long is {too_long!r}, expected {' or '.join(TOO_LONG)}")
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}, expected one of {', '.join(FORMS)}")
    report = EncodingReport(truncated=too_long == "truncate", max_length=max_length)
    samples = []
    for row in rows:
        sample = _encode(row, tokenizer, template, form, class_names)
        _check_ids(row, sample["input_ids"], vocab_size)
        if max_length is not None and max(len(v) for v in sample.values() if isinstance(v, list)) > max_length:
            report.too_long.append(row.where)
            if too_long == "drop":
                continue
            sample = {k: v[:max_length] if isinstance(v, list) else v for k, v in sample.items()}
        labels = sample["labels"]
        scored = labels[1:] if isinstance(labels, list) and form == "causal" else labels  # the first has no predecessor
        if not sample["input_ids"] or (isinstance(labels, list) and all(label == IGNORED for label in scored)):
            report.unlabelled.append(row.where)
            continue
        samples.append(sample)
    report.samples = len(samples)
    if not samples:
        raise DataError("no row can be used: " + "; ".join(report.lines()))
    return samples, report


def encode_text(prompt: str, tokenizer: Tokenizer, template: str = "plain", form: str = "causal") -> list[int]:
    """Token ids of a prompt alone, under a named template or the tokenizer's own ("chat")."""
    return encode_prompt(Row("pair", {"prompt": prompt, "completion": ""}, "the prompt"), tokenizer, template, form)


def encode_prompt(row: Row, tokenizer: Tokenizer, template: str = "plain", form: str = "causal") -> list[int]:
    """Token ids of what stands before a row's (last) response, for generation."""
    _check_text(row.where, row.values)
    text = _prompt(row, tokenizer, template)
    if form != "causal":
        return tokenizer.encode(text, add_special_tokens=True)
    starts = row.form == "pair" and template != CHAT  # a chat template writes the first token itself
    return (_start(tokenizer) if starts else []) + tokenizer.encode(text)


def _prompt(row: Row, tokenizer: Tokenizer, template: str) -> str:
    """The text before a row's (last) response."""
    if row.form == "pair" and template != CHAT:
        return prompt_text(template, row.values)[0]
    if row.form in ("text", "tokens"):
        raise DataError(
            f"{row.where}: a row of the form {row.form} has no prompt of text to answer: name the fields of a "
            "prompt and a response (--field), or a task that makes them (--task)"
        )
    messages = _as_messages(row)
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return tokenizer.apply_chat_template(messages[:last], add_generation_prompt=True)


def response_text(row: Row) -> str:
    """What a row's (last) response should be."""
    if row.form == "pair":
        return str(row.values.get("completion", row.values.get("output")))
    if row.form == "messages":
        return str([m for m in row.values["messages"] if m["role"] == "assistant"][-1]["content"])
    raise DataError(f"{row.where}: a row of the form {row.form} has no response text")


def _start(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the tokenizer's own post-processor puts before a text (a begin-of-sequence token, or none)."""
    with_special = tokenizer.encode("a", add_special_tokens=True)
    return [tokenizer.bos_token_id] if with_special[:1] == [tokenizer.bos_token_id] else []  # type: ignore[list-item]


def _encode(
    row: Row, tokenizer: Tokenizer | None, template: str, form: str = "causal", class_names: Sequence[str] = ()
) -> Sample:
    if row.form == "tokens":
        labels = row.values["labels"]
        if form == "causal" and isinstance(labels, list) and len(labels) != len(row.values["input_ids"]):
            raise DataError(
                f"{row.where}: labels has {len(labels)} entries, input_ids {len(row.values['input_ids'])}: one label a "
                "token is expected"
            )
        return dict(row.values)
    if tokenizer is None:
        raise DataError(f"{row.where}: a row of text needs a tokenizer; only rows of input_ids and labels do without")
    _check_text(row.where, row.values)
    if form != "causal":
        ids, response = encode_prompt(row, tokenizer, template, form), response_text(row)
        if form == "classes":
            return {"input_ids": ids, "labels": _class(row, response.strip(), class_names)}
        return {"input_ids": ids, "labels": tokenizer.encode(response) + _end(tokenizer)}
    if row.form == "text":
        ids = _start(tokenizer) + tokenizer.encode(row.values["text"]) + _end(tokenizer)
        return {"input_ids": ids, "labels": list(ids)}
    if row.form == "messages" or template == CHAT:
        return _encode_chat(row, _as_messages(row), tokenizer)
    prompt, response = prompt_text(template, row.values)
    before = _start(tokenizer) + tokenizer.encode(prompt)
    after = tokenizer.encode(response) + _end(tokenizer)
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}


def _check_text(where: str, value: Any) -> None:
    """DataError for half of a surrogate pair anywhere in a row: it is no character, and no tokenizer takes it."""
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            _check_text(where, part)
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: holds half of a surrogate pair ({value[error.start]!a} at character {error.start} of "
                f"{value[:20]!a}...): the text was cut inside a character. Mend the text, or leave it out"
            ) from None


def _class(row: Row, response: str, names: Sequence[str]) -> int:
    """The class that a response names, or numbers."""
    if response in names:
        return list(names).index(response)
    if response.isdecimal() and int(response) < len(names):
        return int(response)
    if len(row.extra.get("responses", ())) == len(names) and all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return int(row.extra["label"])  # the checkpoint gives its classes no names: the task's order counts
    raise DataError(
        f'{row.where}: "{response[:40]}" is no class of this model: expected {", ".join(names)}, or a number'
    )


def _end(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _as_messages(row: Row) -> list[Mapping[str, str]]:
    """A row as a conversation."""
    if row.form == "messages":
        return list(row.values["messages"])
    prompt, response = prompt_text("plain", row.values)
    return [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": response}]


def _encode_chat(row: Row, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer) -> Sample:
    """The conversation piece by piece: before each assistant turn unscored, the turn itself scored.

    The template is rendered for growing prefixes; each must begin with the one before, or the turns cannot be told
    apart in the text.
    """
    ids: list[int] = []
    labels: list[int] = []
    text = ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages[: i + 1])
        if not prompt.startswith(text) or not whole.startswith(prompt):
            raise DataError(
                f"{row.where}: this chat template rewrites earlier turns when a turn is added (at messages[{i}]), so "
                "the assistant's tokens cannot be told apart. Use rows of one prompt and completion"
            )
        before, turn = tokenizer.encode(prompt[len(text) :]), tokenizer.encode(whole[len(prompt) :])
        ids += before + turn
        labels += [IGNORED] * len(before) + turn
        text = whole
    return {"input_ids": ids, "labels": labels}


def _check_ids(row: Row, ids: Sequence[int], vocab_size: int | None) -> None:
    worst = next((i for i in ids if i < 0 or (vocab_size is not None and i >= vocab_size)), None)
    if worst is not None:
        raise DataError(
            f"{row.where}: token id {worst} is outside the model's vocabulary of {vocab_size}: was this row encoded "
            "for another model?"
        )
