"""How prompts are made of questions: as they were when an adapter was trained, unless told otherwise."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlora_ref.checkpoint import adapter_facts, adapter_folder
from tlora_ref.data import Row, Tokenizer, encode_prompt
from tlora_ref.data.chat import messages_of
from tlora_ref.data.templates import CHAT, PLAIN, check_template
from tlora_ref.errors import CheckpointError, ConfigError, reason
from tlora_ref.pipeline.samples import DataSource

#: Its name among the facts that `save_peft` keeps beside an adapter.
FACT = "prompting"
#: Different prompts from which on it is no chance that all end alike.
ENOUGH = 8


@dataclass(frozen=True)
class Prompting:
    """How prompts are made.

    Attributes
    ----------
    template : a named template, or "chat" for the tokenizer's own
    task : whose prompts they are, if a task's
    system : the system message that every conversation had, if all had one and the same
    end : how every prompt ended that stands as it is (the template "plain"), if all ended alike
    """

    template: str = "plain"
    task: str | None = None
    system: str | None = None
    end: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def prompting_of(source: DataSource, rows: Sequence[Row]) -> Prompting | None:
    """How the rows of a source become prompts; None where they hold tokens, so that nobody knows."""
    forms = {row.form for row in rows}
    if not forms or "tokens" in forms:
        return None
    prompts = [row.values.get("prompt") for row in rows] if forms == {"pair"} and source.template == PLAIN else []
    as_they_are = source.task is None and all(isinstance(prompt, str) for prompt in prompts)
    systems = {_system(row) for row in rows} if forms == {"messages"} else {None}
    return Prompting(
        template=CHAT if forms == {"messages"} else source.template,
        task=None if source.task is None else source.task.name,
        system=systems.pop() if len(systems) == 1 else None,
        end=common_end([str(prompt) for prompt in prompts]) if as_they_are else None,
    )


def common_end(prompts: Sequence[str]) -> str | None:
    """What all of many prompts end in, a line break or "Answer:" say, and not the end of a word; None for nothing, and
    for too few prompts to tell chance from habit."""
    if len(set(prompts)) < ENOUGH:
        return None
    first, last = (edge(prompt[::-1] for prompt in prompts) for edge in (min, max))  # what these share, all do
    shared = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    shared = shared[::-1]
    return re.sub(r"^\w+", "", shared) or None


def read_prompting(adapter: str | Path) -> Prompting | None:
    """How prompts were made when an adapter was trained; None if that is not noted, CheckpointError if it is spoilt."""
    noted = adapter_facts(adapter).get(FACT)
    if noted is None:
        return None
    try:
        found = Prompting(**noted)
        check_template(found.template)
        if not all(part is None or isinstance(part, str) for part in (found.task, found.system, found.end)):
            raise ConfigError(f"a text was expected: {found}")
    except (TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{adapter_folder(adapter)}: what it says of prompts is damaged ({reason(error)})"
        ) from error
    return found


def encode_question(
    question: str, tokenizer: Tokenizer, template: str = "plain", form: str = "causal", system: str | None = None
) -> list[int]:
    """Token ids of a question under a template, for generation; `system` is the system message of a chat.

    Raises
    ------
    ConfigError
        for a system message without a chat.
    DataError
        if the tokenizer has no chat template, or its own refuses these messages.
    """
    row = Row("pair", {"prompt": question, "completion": ""}, "the prompt")
    return encode_prompt(with_system(row, template, system), tokenizer, template, form)


def with_system(row: Row, template: str, system: str | None) -> Row:
    """A row with a system message, unless it has its own; ConfigError where it is no chat."""
    if system is None:
        return row
    if template != CHAT and row.form != "messages":
        raise ConfigError(f"a system message is part of a chat, and the template is {template}: take the template chat")
    messages = messages_of(row)
    if messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system})
    return Row("messages", {"messages": messages}, row.where, extra=row.extra)


def _system(row: Row) -> str | None:
    """The system message that a conversation begins with."""
    first = row.values["messages"][0]
    content = first.get("content") if first.get("role") == "system" else None
    return content if isinstance(content, str) else None
