"""`tlora-ref chat`: a conversation, on a terminal or from a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.generate import show
from tlora_ref.cli.prompting import PLAIN, template_of_prompt
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.screen import seconds as in_words
from tlora_ref.cli.settings import responder
from tlora_ref.data.templates import CHAT
from tlora_ref.errors import ConfigError, TLoRAError

HELP = "/save FILE keeps the conversation, /reset begins anew, /quit (or the end of input) ends"


def run(
    context: typer.Context,
    model: o.ModelFolder,
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    template: o.TemplateOfAdapter = None,
    system: o.System = None,
    max_new_tokens: o.MaxNewTokens = 256,
    temperature: o.Temperature = 0.0,
    top_k: o.TopK = None,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    repetition_penalty: o.RepetitionPenalty = 1.0,
    stop: o.Stops = None,
    seed: o.DrawSeed = 0,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    device: o.DeviceName = "cpu",
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Talk with a model, a line a turn.

    /save FILE, /reset and /quit are commands. From a pipe, each line is a turn. A model without a chat template (or
    --template plain, question, alpaca) is asked each line by itself.
    """
    screen, alive = Screen(json), sys.stdin.isatty()
    tokenizer = tr.load_tokenizer(model)
    if template is None and (tokenizer.chat_template is not None or system is not None):
        template = CHAT
    template = template_of_prompt(tokenizer, adapter, template, False, system)
    ready, _ = tr.load_adapted(model, adapter, dtype, device, hold=hold)
    end = "" if template == CHAT else _end(adapter, template)
    chat = tr.Chat(responder(context, ready, tokenizer), system, template, end=end)
    if template != CHAT:
        why = "it has no chat template" if tokenizer.chat_template is None else f"--template {template}"
        warn(f"the model is asked each line by itself, without those before it ({why})")
    if end:
        warn(f"each line is given {end!r} at its end, as all prompts that the adapter was trained on")
    _talk(screen, chat, alive=alive)
    screen.finish({"messages": chat.messages})


def _end(adapter: Path | None, template: str) -> str:
    """What prompts ended in that an adapter was trained on, as they stood."""
    trained = None if adapter is None else tr.read_prompting(adapter)
    return trained.end or "" if trained is not None and trained.template == template == PLAIN else ""


def _talk(screen: Screen, chat: tr.Chat, *, alive: bool) -> None:
    """Line by line to the end; on a terminal (`alive`) what goes wrong is said, elsewhere it ends the command."""
    if alive:
        screen.say(HELP)
    while (line := _line(alive)) is not None and line.strip() != "/quit":
        try:
            _turn(screen, chat, line.rstrip())
        except KeyboardInterrupt:
            if not alive:
                raise
            screen.say("")
            warn("stopped: this turn is forgotten")
        except TLoRAError as error:
            if not alive:
                raise
            warn(str(error))


def _line(alive: bool) -> str | None:
    """What is said next; None at the end. On a terminal lines can be edited, and earlier ones called back."""
    if not alive:
        return sys.stdin.readline() or None
    with suppress(ImportError):  # not there on Windows
        import readline  # noqa: F401
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _turn(screen: Screen, chat: tr.Chat, line: str) -> None:
    """One line: a command, or words for the model."""
    commands: dict[str, Callable[[str], None]] = {
        "/save": lambda file: _save(screen, chat, file),
        "/reset": lambda _: _reset(screen, chat),
        "/help": lambda _: screen.say(HELP),
    }
    word, _, rest = line.partition(" ")
    if word in commands:
        commands[word](rest.strip())
    elif word.startswith("/"):
        raise ConfigError(f"there is no {word}: {HELP}; a blank before it says it to the model")
    elif line:
        began = time.perf_counter()
        response = chat.say(line.strip(), None if screen.as_json else show)
        screen.say("")
        if screen.rich:
            screen.aside(_cost(chat, response, time.perf_counter() - began))
        if response.finish == "length":
            full = ", or /reset where the context is full" if chat.template == CHAT else ""
            warn(f"the answer was cut at its greatest length: --max-new-tokens{full}")
        elif not response.text.strip():
            warn(f"the answer is empty: {len(response.tokens)} token(s), of which none is text")


def _cost(chat: tr.Chat, response: tr.Response, seconds: float) -> str:
    """What a turn took: the tokens that were read and not kept from before, those that were made, the time."""
    context = chat.responder.model.context
    used = chat.prompt_tokens + len(response.tokens)
    room = "" if context is None else f"; {used:,} of {context:,} tokens of context used"
    new = chat.prompt_tokens - chat.kept_tokens
    return f"[{new} new tokens read, {len(response.tokens)} made in {in_words(seconds)}{room}]"


def _save(screen: Screen, chat: tr.Chat, file: str) -> None:
    if not file:
        raise ConfigError("/save needs the name of a file")
    chat.save(file)
    screen.say(f"wrote {file}: {len(chat.messages)} messages")


def _reset(screen: Screen, chat: tr.Chat) -> None:
    chat.reset()
    screen.say("everything said is forgotten" + ("" if chat.system is None else ", but the system message"))
