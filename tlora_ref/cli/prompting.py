"""How prompts are made: as the flags say, else as when the adapter was trained; and what a person should know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tlora_ref as tr
from tlora_ref.cli.screen import warn
from tlora_ref.data import Tokenizer
from tlora_ref.data.templates import CHAT, PLAIN
from tlora_ref.errors import ConfigError
from tlora_ref.pipeline.prompts import FACT
from tlora_ref.tasks import tasks


def template_of(given: str | None, trained: tr.Prompting | None) -> str:
    """The template to use; a note where it is the adapter's own, or not the one it was trained with."""
    if trained is None:
        return given or PLAIN
    if given is None and trained.template != PLAIN:
        warn(f"prompts are made by the template {trained.template}, as when the adapter was trained")
    elif given is not None and given != trained.template:
        warn(f"the adapter was trained with the template {trained.template}, not {given}")
    return given or trained.template


def template_of_rows(given: str | None, task: str | None, adapter: Path | None) -> str:
    """The template for rows of data; a task has its own prompts, which a chat alone can hold."""
    trained = None if adapter is None else tr.read_prompting(adapter)
    if task is not None and given is None and trained is not None and trained.template != CHAT:
        trained = None
    return template_of(given, trained)


def template_of_prompt(
    tokenizer: Tokenizer, adapter: Path | None, given: str | None, chat: bool, system: str | None
) -> str:
    """The template for a prompt that a person wrote; hints for a chat model that is asked without its template."""
    if chat and given not in (None, CHAT):
        raise ConfigError(f"--chat is --template chat: leave --template {given} out")
    if system is not None and given not in (None, CHAT):
        raise ConfigError(f"--system is a part of a chat: leave --template {given} out")
    trained = None if adapter is None else tr.read_prompting(adapter)
    asked = CHAT if chat or system is not None else given
    template = template_of(asked, trained)
    if tokenizer.chat_template is not None and trained is None and asked is None:
        warn("this model has a chat template, but the prompt is continued as it stands. To ask it as in a chat: --chat")
    if trained is not None and trained.task is not None:
        prompt = tr.load_task(trained.task).prompt if trained.task in tasks() else f"its task, {trained.task}"
        warn(f"the adapter was trained on prompts of the form {prompt!r}")
    if trained is not None and trained.system is not None and system is None and template == CHAT:
        warn(f"the adapter was trained with the system message {trained.system!r}: it can be set with --system")
    return template


def say_ends(adapter: Path | None, template: str, prompts: Sequence[str]) -> None:
    """A note on prompts that end otherwise than all those did that the adapter was trained on."""
    trained = None if adapter is None else tr.read_prompting(adapter)
    if trained is None or trained.end is None or template != PLAIN:
        return
    other = [prompt for prompt in prompts if not prompt.endswith(trained.end)]
    if other:
        which = "the prompt does not" if len(prompts) == 1 else f"{len(other)} of {len(prompts)} prompts do not"
        warn(f"all prompts that the adapter was trained on end in {trained.end!r}; {which}")


def noted(prompting: tr.Prompting | None) -> dict[str, Any]:
    """How prompts are made, as a fact to keep beside an adapter."""
    return {FACT: None if prompting is None else prompting.to_dict()}
