"""`tlora-ref generate`: a prompt continued, printed as it is made."""

from __future__ import annotations

from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.prompting import template_of_prompt
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import say_unused
from tlora_ref.data import Tokenizer, sample_form
from tlora_ref.errors import DataError


def run(
    context: typer.Context,
    model: o.ModelFolder,
    prompt: Annotated[str, typer.Option(help="What to continue.", show_default=False)],
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    template: o.TemplateOfAdapter = None,
    chat: Annotated[bool, typer.Option("--chat", help="The tokenizer's own chat template: --template chat.")] = False,
    system: Annotated[str | None, typer.Option(help="The system message of the chat.")] = None,
    max_new_tokens: o.MaxNewTokens = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the sampled distribution.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws at a temperature above 0.")] = 0,
    dtype: o.Dtype = "float32",
    device: o.DeviceName = "cpu",
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Continue a prompt; the text is printed as it is made."""
    screen = Screen(json)
    if not prompt:
        raise DataError("--prompt is empty: give at least one character")
    if temperature == 0:
        say_unused(context, "it draws nothing at temperature 0", "top_p", "seed")
    tokenizer = tr.load_tokenizer(model)
    template = template_of_prompt(tokenizer, adapter, template, chat, system)
    ready, _ = tr.load_adapted(model, adapter, dtype, device)
    ids = tr.encode_question(prompt, tokenizer, template, sample_form(ready), system)
    warn_of_length(ready, len(ids) + max_new_tokens)
    stream = _Stream(tokenizer, silent=json)
    options = {"temperature": temperature, "top_p": top_p, "seed": seed}
    ends = ready.ends(tokenizer.eos_token_id)
    ready.generate(ids, max_new_tokens=max_new_tokens, on_token=stream.take, eos_token_id=ends, **options)
    stream.end()
    text = tokenizer.decode(stream.made)
    if not text.strip():
        warn(f"the response is empty: {len(stream.made)} token(s), of which none is text")
    screen.finish({"prompt": prompt, "template": template, "text": text, "tokens": stream.made})


def warn_of_length(model: tr.Model, longest: int) -> None:
    """A note where prompt and response may go beyond the context of a decoder."""
    if model.context is not None and longest > model.context and model.task_type == "CAUSAL_LM":
        warn(f"prompt and response may reach {longest} tokens, beyond the model's context {model.context}")


class _Stream:
    """Prints the text of tokens as they come, holding back what is not yet a whole character."""

    def __init__(self, tokenizer: Tokenizer, *, silent: bool) -> None:
        self.tokenizer, self.silent = tokenizer, silent
        self.made: list[int] = []
        self.shown = 0

    def take(self, new: list[int]) -> None:
        """The tokens of one step (one row's: one token)."""
        self.made.extend(new)
        text = self.tokenizer.decode(self.made)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else half of a multi-byte character
            self._show(text, "")

    def end(self) -> None:
        """What was held back, and the end of the line."""
        self._show(self.tokenizer.decode(self.made), "\n")

    def _show(self, text: str, after: str) -> None:
        if not self.silent:
            print(text[self.shown :], end=after, flush=True)
        self.shown = len(text)
