"""Conversations to tokens: as transformers renders and tokenises them, the assistant's turns scored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tlora_ref.data.chat_template import Job, Rendered
from tlora_ref.data.messages import learnt
from tlora_ref.data.rows import Row
from tlora_ref.data.templates import prompt_text
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.data.turns import Turns
from tlora_ref.errors import DataError

#: A template with this tag says itself what is scored.
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Span = tuple[int, int]


class Conversation:
    """A row as a conversation, under a tokenizer's chat template.

    Attributes
    ----------
    messages : as the template is given them
    wanted : which of them are scored: the assistant's that say something; of a row of prompt and completion, the
        completion's
    """

    def __init__(self, row: Row, tokenizer: Tokenizer) -> None:
        self.where, self.tokenizer = row.where, tokenizer
        self.options = {key: row.extra[key] for key in ("tools", "documents") if row.extra.get(key) is not None}
        self.template = tokenizer.template("tools" in self.options)
        self.variables = {**tokenizer.special, **self.options, **row.extra.get("template_options", {})}
        self.messages = self._as_taken(messages_of(row))
        given = int(row.extra.get("given", 0))
        self.wanted = [i for i, message in enumerate(self.messages) if i >= given and says_something(message)]

    def prompt(self) -> str:
        """The text before the last of the assistant's turns, that turn opened."""
        last = max(i for i, message in enumerate(self.messages) if message["role"] == "assistant")
        return self._rendered([(self.messages[:last], True)])[0].text

    def encoded(self) -> tuple[list[int], list[bool], bool, bool]:
        """The conversation's token ids, which of them are scored, whether every scored turn has a token that ends it,
        and whether the template writes every turn that is to be scored (many leave tool calls out)."""
        final = self._rendered([(self.messages, False)])[0]
        spans = self._spans(final)
        encoding = self.tokenizer.backend.encode(final.text, add_special_tokens=False)
        scored, ended = [False] * len(encoding.ids), set()
        for number, (start, stop) in enumerate(spans):
            for at, (token, (begins, ends)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
                if begins < stop and ends > start:
                    scored[at] = True
                    ended |= {number} if token in self.tokenizer.end_ids else set()
        return list(encoding.ids), scored, len(ended) == len(spans), len(spans) >= len(self.wanted)

    def _spans(self, final: Rendered) -> list[Span]:
        """The characters that are scored: those that the template marks, or the assistant's turns."""
        turns = Turns(self.messages, self._outcomes, self._closers(), self.where)
        marked = GENERATION.search(self.template.source) is not None
        everything = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        if marked and self.wanted == everything:
            return final.spans
        found = turns.spans(final.text, self.wanted)
        if not marked:
            return found
        return [(a, b) for a, b in final.spans if any(a < stop and b > start for start, stop in found)]

    def _closers(self) -> list[str]:
        return [self.tokenizer.decode([i], skip_special_tokens=False) for i in self.tokenizer.end_ids]

    def _outcomes(self, jobs: Sequence[Job]) -> list[Rendered | DataError]:
        with self._named():
            return self.template.outcomes(jobs, self.variables)

    def _rendered(self, jobs: Sequence[Job]) -> list[Rendered]:
        with self._named():
            return self.template.render(jobs, self.variables)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Errors name the row."""
        try:
            yield
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error

    def _as_taken(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Content in parts as it is where the template writes each part's text, else joined: most know text alone."""
        parts = [part["text"] for m in messages if isinstance(m.get("content"), list) for part in m["content"]]
        if not parts:
            return list(messages)
        (found,) = self._outcomes([(messages, False)])
        written = "" if isinstance(found, DataError) else found.text
        if all(part.strip() in written for part in parts) and "{'type': 'text'" not in written:
            return list(messages)
        return [{**m, "content": _joined(m["content"])} if isinstance(m.get("content"), list) else m for m in messages]


def messages_of(row: Row) -> list[Mapping[str, Any]]:
    """A row as messages."""
    if row.form == "messages":
        return list(row.values["messages"])
    prompt, response = prompt_text("plain", row.values)
    system = [{"role": "system", "content": row.extra["system"]}] if "system" in row.extra else []
    return [*system, {"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": response}]


def says_something(message: Mapping[str, Any]) -> bool:
    """Whether a message is the assistant's, has words or calls, and is to be learnt."""
    content = message.get("content")
    text = _joined(content) if isinstance(content, list) else content or ""
    return message["role"] == "assistant" and learnt(message) and bool(text.strip() or message.get("tool_calls"))


def _joined(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)
