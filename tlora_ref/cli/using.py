"""`tlora-ref eval` and `tlora-ref generate`: a model, with or without an adapter, at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen, warn
from tlora_ref.cli.tasking import Answering, check_write, run_task
from tlora_ref.cli.work import DataChoice, attach, sample_form, tokenizer_for
from tlora_ref.data import EncodingReport, Row, Tokenizer, response_text
from tlora_ref.data.encode import encode_text
from tlora_ref.data.templates import CHAT
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer import Model


def loaded(folder: Path, adapter: Path | None, dtype: str, device: str) -> Model:
    """The model, with its adapter attached if one is given."""
    low_rank = None if adapter is None else tr.load_peft(adapter, dtype, device)
    model = tr.load_model(folder, dtype, device)
    if low_rank is not None:
        attach(model, low_rank)
    return model


def evaluate(
    model: o.ModelFolder,
    data: o.Data,
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    split: o.Split = "test",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    write: Annotated[
        Path | None, typer.Option(help="With --task: keep the responses here, one JSON object a line.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows alone.")] = None,
    max_length: o.MaxLength = None,
    batch_size: o.BatchSize = 8,
    generate: Annotated[bool, typer.Option("--generate", help="Also generate, and count exact matches.")] = False,
    max_new_tokens: o.MaxNewTokens = 64,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    json: o.Json = False,
) -> None:
    """Loss, perplexity, and (with --generate) exact matches on held-out rows; with --task, that task's own scores."""
    screen = Screen(json)
    source = DataChoice.of(data, field, template, max_length, task)
    check_write(source, write)
    rows = source.rows(split)[:limit]
    tokenizer = tokenizer_for(model, rows)
    if generate and (tokenizer is None or any(row.form in ("text", "tokens") for row in rows)):
        raise ConfigError(
            f"{data}: --generate needs rows with a prompt and a response of text to compare with; rows of text alone "
            "or of input_ids have none"
        )
    ready = loaded(model, adapter, dtype, device)
    samples, report = source.encoded(rows, ready, tokenizer)
    result = tr.evaluate(ready, samples, batch_size=batch_size)
    found: dict[str, Any] = {"loss": result.loss, "perplexity": result.perplexity, "tokens": result.tokens}
    found |= {"samples": len(samples), "too_long": len(report.too_long), "unlabelled": len(report.unlabelled)}
    unit = "row" if sample_form(ready) == "classes" else "token"
    screen.say(f"{len(samples)} of {len(rows)} rows, {result.tokens:,} scored {unit}s")
    perplexity = f", perplexity {result.perplexity:.3f}" if unit == "token" else ""
    screen.say(f"loss {result.loss:.4f} nats a {unit}{perplexity}")
    if tokenizer is not None and (generate or task is not None):
        answering = Answering(ready, tokenizer, template, max_new_tokens)
        used = answerable(answering, source, rows, report)
        found |= exact_matches(screen, answering, used) if generate else {}
        found |= {} if task is None else run_task(screen, answering, source, used, write)
    screen.finish(found)


def answerable(answering: Answering, source: DataChoice, rows: list[Row], report: EncodingReport) -> list[Row]:
    """Rows that were scored, and those of which the prompt fits where only the response was too long."""
    weighs = source.task is not None and bool(source.task.choices)  # such a task needs its responses to fit
    too_long = set(report.too_long)

    def fits(row: Row) -> bool:
        if row.where not in too_long:
            return row.where not in report.unlabelled
        return not weighs and answering.fits(row, source.max_length)

    return [row for row in rows if fits(row)]


def exact_matches(screen: Screen, answering: Answering, rows: list[Row]) -> dict[str, Any]:
    """How many greedy responses are the rows' own, surrounding blanks aside."""
    right = 0
    with screen.progress("generating") as progress:
        for done, row in enumerate(rows, 1):
            right += answering.text(row).strip() == response_text(row).strip()
            progress(done, len(rows))
    screen.say(f"exact match {right} of {len(rows)} ({right / len(rows):.1%})")
    return {"exact": right, "rows": len(rows), "accuracy": right / len(rows)}


def generate(
    model: o.ModelFolder,
    prompt: Annotated[str, typer.Option(help="What to continue.", show_default=False)],
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    template: o.Template = "plain",
    chat: Annotated[bool, typer.Option("--chat", help="The tokenizer's own chat template: --template chat.")] = False,
    max_new_tokens: o.MaxNewTokens = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus of the sampled distribution.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws at a temperature above 0.")] = 0,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    json: o.Json = False,
) -> None:
    """Continue a prompt; the text is printed as it is made."""
    screen = Screen(json)
    tokenizer = tr.load_tokenizer(model)
    if not prompt:
        raise DataError("--prompt is empty: give at least one character")
    ready = loaded(model, adapter, dtype, device)
    ids = encode_text(prompt, tokenizer, CHAT if chat else template, sample_form(ready))
    longest = len(ids) + max_new_tokens
    if ready.context is not None and longest > ready.context and ready.task_type == "CAUSAL_LM":
        warn(f"prompt and response may reach {longest} tokens, beyond the model's context {ready.context}")
    stream = _Stream(tokenizer, silent=json)
    options = {"temperature": temperature, "top_p": top_p, "seed": seed, "eos_token_id": tokenizer.eos_token_id}
    ready.generate(ids, max_new_tokens=max_new_tokens, on_token=stream.take, **options)
    stream.end()
    screen.finish({"prompt": prompt, "text": tokenizer.decode(stream.made), "tokens": stream.made})


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
