"""`tlora-ref eval` and `tlora-ref generate`: a model, with or without an adapter, at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen
from tlora_ref.cli.work import DataChoice, tokenizer_for
from tlora_ref.data import encode_prompt, response_text
from tlora_ref.data.encode import encode_text
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer import Model

AdapterFolder = Annotated[Path | None, typer.Option("--adapter", help="PEFT adapter folder to attach.")]


def loaded(folder: Path, adapter: Path | None, dtype: str, device: str) -> Model:
    """The model, with its adapter attached if one is given."""
    model = tr.load_model(folder, dtype, device)
    if adapter is not None:
        model.attach(tr.load_peft(adapter, dtype, device))
    return model


def evaluate(
    model: o.ModelFolder,
    data: o.Data,
    config: o.Config = None,
    adapter: AdapterFolder = None,
    split: o.Split = "test",
    field: o.Fields = None,
    template: o.Template = "plain",
    max_length: o.MaxLength = None,
    batch_size: Annotated[int, typer.Option(help="Samples of one forward pass.")] = 8,
    generate: Annotated[bool, typer.Option("--generate", help="Also generate, and count exact matches.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest generated response.")] = 64,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    json: o.Json = False,
) -> None:
    """Loss, perplexity, and (with --generate) exact-match accuracy on held-out rows."""
    screen = Screen(json)
    source = DataChoice(data, o.pairs(field), template, max_length)
    rows = source.rows(split)
    tokenizer = tokenizer_for(model, rows)
    ready = loaded(model, adapter, dtype, device)
    samples = source.samples(rows, ready, tokenizer)
    result = tr.evaluate(ready, samples, batch_size=batch_size)
    found: dict[str, Any] = {"loss": result.loss, "perplexity": result.perplexity, "tokens": result.tokens}
    screen.say(f"{len(samples)} rows, {result.tokens} scored tokens")
    screen.say(f"loss {result.loss:.4f} nats a token, perplexity {result.perplexity:.3f}")
    if generate:
        if tokenizer is None:
            raise ConfigError("--generate needs rows of text: rows of input_ids have no response to compare with")
        right = 0
        with screen.progress("generation") as progress:
            for done, row in enumerate(rows, 1):
                right += matches(ready, tokenizer, row, template, max_new_tokens)
                progress(done, len(rows))
        found |= {"exact": right, "rows": len(rows), "accuracy": right / len(rows)}
        screen.say(f"exact match {right} of {len(rows)} ({right / len(rows):.1%})")
    screen.finish(found)


def matches(model: Model, tokenizer: Any, row: Any, template: str, max_new_tokens: int) -> bool:
    """Whether the greedy response to a row's prompt is the row's own, surrounding blanks aside."""
    prompt = encode_prompt(row, tokenizer, template)
    ids = model.generate(prompt, max_new_tokens=max_new_tokens, eos_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(ids[len(prompt) :].tolist())).strip() == response_text(row).strip()


def generate(
    model: o.ModelFolder,
    prompt: Annotated[str, typer.Option(help="What to continue.", show_default=False)],
    config: o.Config = None,
    adapter: AdapterFolder = None,
    template: o.Template = "plain",
    max_new_tokens: Annotated[int, typer.Option(help="Longest response.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the sampled distribution.")] = 1.0,
    seed: o.Seed = 0,
    dtype: o.Dtype = "float32",
    device: o.DeviceName = "cpu",
    json: o.Json = False,
) -> None:
    """Continue a prompt; the text is printed as it is made."""
    screen = Screen(json)
    tokenizer = tr.load_tokenizer(model)
    ids = encode_text(prompt, tokenizer, template)
    if not ids:
        raise DataError("--prompt is empty: give at least one character")
    ready = loaded(model, adapter, dtype, device)
    made: list[int] = []
    shown = 0

    def on_token(new: list[int]) -> None:
        nonlocal shown
        made.extend(new)
        text = tokenizer.decode(made)
        if not json and not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a multi-byte character
            print(text[shown:], end="", flush=True)
            shown = len(text)

    ready.generate(
        ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        eos_token_id=tokenizer.eos_token_id,
        on_token=on_token,
    )
    screen.say("")
    screen.finish({"prompt": prompt, "text": tokenizer.decode(made), "tokens": made})
