"""Rows to samples: tokens, labels on the response alone, and a report of what was left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.data.chat import Conversation, says_something
from tlora_ref.data.lengths import IGNORED, Sample, check_too_long, chunks, truncated
from tlora_ref.data.rows import Row
from tlora_ref.data.seam import joined
from tlora_ref.data.templates import CHAT, check_template, prompt_text
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.errors import ConfigError, DataError

#: What a model makes of a row: one sequence that goes on, an answer to an encoded prompt, or a class.
FORMS = ("causal", "seq2seq", "classes")


@dataclass(frozen=True)
class EncodedRow:
    """What became of one row.

    Attributes
    ----------
    where : the row, for messages
    sample : as it is used, cut if need be; whole where it is left out as too long, or used in parts; None where it has
        nothing to learn
    length : tokens of the longest part, before any cut
    too_long, unlabelled : whether it was cut or left out for its length; whether no token of it is labelled
    ended : whether a token ends everything that is scored
    whole : whether the chat template writes every turn that is to be learnt
    end_lost : whether the cut took scored tokens, and so the token that ends a response
    parts : the samples that it is used as
    """

    where: str
    sample: Sample | None
    length: int = 0
    too_long: bool = False
    unlabelled: bool = False
    ended: bool = True
    whole: bool = True
    end_lost: bool = False
    parts: tuple[Sample, ...] = ()

    @property
    def used(self) -> bool:
        """Whether it is a sample, or several."""
        return bool(self.parts)


@dataclass
class EncodingReport:
    """What became of the rows: how many are used, as how many samples, and, by where they stand, which were too long,
    which lost their end token to a cut, which have no labelled token, and which are samples that no token ends, or of
    which the chat template leaves out turns of the assistant."""

    samples: int = 0
    used: int = 0
    too_long: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    endless: list[str] = field(default_factory=list)
    end_lost: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    how: str = "skip"
    max_length: int | None = None

    def count(self, row: EncodedRow) -> None:
        """One more row."""
        self.samples += len(row.parts)
        self.used += row.used
        self.too_long += [row.where] if row.too_long else []
        self.unlabelled += [row.where] if row.unlabelled else []
        self.endless += [row.where] if row.used and not row.ended else []
        self.end_lost += [row.where] if row.used and row.end_lost else []
        self.partial += [row.where] if row.used and not row.whole else []

    def lines(self) -> list[str]:
        """Sentences for a person; none if every row was used whole."""
        said = []
        if self.too_long:
            done = {"skip": "left out: longer than", "truncate": "cut to", "chunk": "cut into parts of at most"}
            said.append(
                f"{len(self.too_long)} row(s) {done[self.how]} {self.max_length} tokens (first: {self.too_long[0]})"
            )
        if self.end_lost:
            said.append(
                f"{len(self.end_lost)} of them lost scored tokens and the end token, so that a model does not learn to "
                f"stop from them (first: {self.end_lost[0]})"
            )
        if self.unlabelled:
            said.append(f"{len(self.unlabelled)} row(s) left out: no labelled token (first: {self.unlabelled[0]})")
        if self.endless:
            said.append(
                f"{len(self.endless)} row(s) without a scored end token, from which a model does not learn to stop "
                f"(first: {self.endless[0]}): the chat template writes none, or the tokenizer names no eos_token"
            )
        if self.partial:
            said.append(
                f"{len(self.partial)} row(s) with turns of the assistant that the chat template does not write "
                f"and that are not learnt (first: {self.partial[0]}): does it know tool calls?"
            )
        return said


def encode_rows(
    rows: Sequence[Row],
    tokenizer: Tokenizer | None,
    *,
    template: str = "plain",
    max_length: int | None = None,
    too_long: str = "skip",
    vocab_size: int | None = None,
    form: str = "causal",
    class_names: Sequence[str] = (),
) -> tuple[list[Sample], EncodingReport]:
    """Samples {"input_ids", "labels"} of all rows that can be used, and a report of those that cannot.

    Prompt and response have the tokens of the whole text wherever a token ends at the seam (see `seam.joined`); the
    response ends with the end-of-sequence token, which is scored. First comes what the tokenizer itself puts before a
    text. A conversation has the tokens of its whole rendering, and every assistant turn of it is scored, or what the
    template's `{% generation %}` tags enclose. In `text` rows every token is scored.

    Parameters
    ----------
    tokenizer : may be None if all rows hold input_ids
    template : a named template for pairs, or "chat" for the tokenizer's own
    max_length : the context
    too_long : what becomes of a longer row. "skip": it is left out. "truncate": its first `max_length` tokens are used
        (of a prompt for an encoder, what the tokenizer puts at its end is kept). "chunk", for causal models: its tokens
        in order, in parts of `max_length`, each of which begins with the last token of the one before
    vocab_size : the model's; ids outside are an error
    form : "causal"; "seq2seq" (input_ids hold the prompt, labels the response); or "classes" (labels is one of
        `class_names`, or its number, as the response says)

    Raises
    ------
    DataError, ConfigError
    """
    options: dict[str, Any] = {"max_length": max_length, "too_long": too_long, "vocab_size": vocab_size}
    options |= {"template": template, "form": form, "class_names": class_names}
    report = EncodingReport(how=too_long, max_length=max_length)
    samples: list[Sample] = []
    for row in rows:
        encoded = encode_row(row, tokenizer, **options)
        report.count(encoded)
        samples += encoded.parts
    if not samples:
        raise DataError("no row can be used: " + "; ".join(report.lines()))
    return samples, report


def encode_row(
    row: Row,
    tokenizer: Tokenizer | None,
    *,
    template: str = "plain",
    max_length: int | None = None,
    too_long: str = "skip",
    vocab_size: int | None = None,
    form: str = "causal",
    class_names: Sequence[str] = (),
) -> EncodedRow:
    """What becomes of one row: see `encode_rows`."""
    check_template(template)
    if form not in FORMS:
        raise ConfigError(f"form is {form!r}, expected one of {', '.join(FORMS)}")
    check_too_long(too_long, form)
    if not _teaches(row):
        return EncodedRow(row.where, None, unlabelled=True)
    sample, ended, whole = _encode(row, tokenizer, template, form, class_names)
    _check_ids(row, sample["input_ids"], vocab_size, tokenizer)
    length = max(len(v) for v in sample.values() if isinstance(v, list))
    if max_length is None or length <= max_length:
        scored = _scored(sample, form)
        return EncodedRow(row.where, sample, length, False, not scored, ended, whole, parts=(sample,) if scored else ())
    if too_long == "skip":
        return EncodedRow(row.where, sample, length, True, ended=ended, whole=whole)
    if too_long == "chunk":
        parts = tuple(chunks(sample, max_length))
        return EncodedRow(row.where, sample, length, True, not parts, ended, whole, parts=parts)
    last = tokenizer.frame[1] if tokenizer is not None and row.form != "tokens" and form != "causal" else []
    cut = truncated(sample, max_length, last)
    scored, lost = _scored(cut, form), ended and _count(cut) < _count(sample)
    return EncodedRow(row.where, cut, length, True, not scored, ended, whole, lost, (cut,) if scored else ())


def _count(sample: Sample) -> int:
    """How many labels are scored, at most; 1 for a class."""
    labels = sample["labels"]
    return sum(label != IGNORED for label in labels) if isinstance(labels, list) else 1


def _scored(sample: Sample, form: str) -> bool:
    """Whether a sample has a label that counts: a class, or a token that has a predecessor."""
    labels = sample["labels"]
    if not sample["input_ids"] or not isinstance(labels, list):
        return bool(sample["input_ids"])
    return any(label != IGNORED for label in (labels[1:] if form == "causal" else labels))


def encode_text(prompt: str, tokenizer: Tokenizer, template: str = "plain", form: str = "causal") -> list[int]:
    """Token ids of a prompt alone, under a named template or the tokenizer's own ("chat")."""
    return encode_prompt(Row("pair", {"prompt": prompt, "completion": ""}, "the prompt"), tokenizer, template, form)


def encode_prompt(row: Row, tokenizer: Tokenizer, template: str = "plain", form: str = "causal") -> list[int]:
    """Token ids of what stands before a row's (last) response, for generation."""
    _check_text(row.where, row.values)
    if row.form in ("text", "tokens"):
        raise DataError(
            f"{row.where}: a row of the form {row.form} has no prompt of text to answer: name the fields of a "
            "prompt and a response (--field), or a task that makes them (--task)"
        )
    _check_system(row, template)
    if row.form == "messages" or template == CHAT:
        text, start = Conversation(row, tokenizer).prompt(), []  # the template writes the first token itself
    else:
        text, start = prompt_text(template, row.values)[0], tokenizer.frame[0]
    return start + tokenizer.encode(text) if form == "causal" else tokenizer.encode(text, add_special_tokens=True)


def response_text(row: Row) -> str:
    """What a row's (last) response should be."""
    if row.form == "pair":
        return str(row.values.get("completion", row.values.get("output")))
    if row.form == "messages":
        content = [m for m in row.values["messages"] if m["role"] == "assistant"][-1].get("content")
        return "".join(part["text"] for part in content) if isinstance(content, list) else content or ""
    raise DataError(f"{row.where}: a row of the form {row.form} has no response text")


def _teaches(row: Row) -> bool:
    """Whether a row has anything to learn: its response, or its text, is not empty."""
    if row.form == "messages":
        return any(says_something(m) for m in row.values["messages"][row.extra.get("given", 0) :])
    return row.form == "tokens" or bool((row.values["text"] if row.form == "text" else response_text(row)).strip())


def _encode(
    row: Row, tokenizer: Tokenizer | None, template: str, form: str = "causal", class_names: Sequence[str] = ()
) -> tuple[Sample, bool, bool]:
    """A row's sample, whether a token ends what is scored, and whether every turn to be learnt is in it."""
    if row.form == "tokens":
        labels = row.values["labels"]
        if form == "causal" and isinstance(labels, list) and len(labels) != len(row.values["input_ids"]):
            raise DataError(
                f"{row.where}: labels has {len(labels)} entries, input_ids {len(row.values['input_ids'])}: one label a "
                "token is expected"
            )
        return dict(row.values), True, True
    if tokenizer is None:
        raise DataError(f"{row.where}: a row of text needs a tokenizer; only rows of input_ids and labels do without")
    _check_text(row.where, row.values)
    _check_system(row, template)
    ended = bool(tokenizer.end)
    if form != "causal":
        ids, response = encode_prompt(row, tokenizer, template, form), response_text(row)
        if form == "classes":
            return {"input_ids": ids, "labels": _class(row, response.strip(), class_names)}, True, True
        return {"input_ids": ids, "labels": tokenizer.encode(response) + tokenizer.end}, ended, True
    if row.form == "text":
        ids = tokenizer.frame[0] + tokenizer.encode(row.values["text"]) + tokenizer.end
        return {"input_ids": ids, "labels": list(ids)}, ended, True
    if row.form == "messages" or template == CHAT:
        ids, scored, ended, whole = Conversation(row, tokenizer).encoded()
        return (
            {"input_ids": ids, "labels": [i if s else IGNORED for i, s in zip(ids, scored, strict=True)]},
            ended,
            whole,
        )
    before, after = joined(tokenizer, *prompt_text(template, row.values))
    before, after = tokenizer.frame[0] + before, after + tokenizer.end
    return {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}, ended, True


def _check_system(row: Row, template: str) -> None:
    """DataError for a system message that a named template has no place for."""
    if "system" in row.extra and template != CHAT:
        raise DataError(
            f'{row.where}: the row has a "system" message, which the template {template} has no place for: take the '
            "model's chat template (--template chat), or write it into the prompt"
        )


def _check_text(where: str, value: Any) -> None:
    """DataError for half of a surrogate pair anywhere in a row: it is no character, and no tokenizer takes it."""
    if isinstance(value, Mapping | list):
        for part in [*value, *value.values()] if isinstance(value, Mapping) else value:
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


def _check_ids(row: Row, ids: Sequence[int], vocab_size: int | None, tokenizer: Tokenizer | None) -> None:
    worst = next((i for i in ids if i < 0 or (vocab_size is not None and i >= vocab_size)), None)
    if worst is None:
        return
    added = {} if tokenizer is None else {i: token for token, i in tokenizer.added.items()}
    if worst in added:
        raise DataError(
            f"{row.where}: the token {added[worst]} has no place in the model's vocabulary of {vocab_size}: "
            "tokenizer_config.json names it, and tokenizer.json lacks it. Name a token there that the model knows"
        )
    raise DataError(
        f"{row.where}: token id {worst} is outside the model's vocabulary of {vocab_size}: was this row encoded "
        "for another model?"
    )
