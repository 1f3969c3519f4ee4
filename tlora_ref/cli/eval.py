"""`tlora-ref eval`: how well a model, with or without an adapter, does on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_file
from tlora_ref.cli.prompting import template_of_rows
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import data_source, say_unused, say_unused_choices
from tlora_ref.data import EncodingReport, Row, sample_form
from tlora_ref.errors import ConfigError
from tlora_ref.tasks import SCORED_ELSEWHERE, Accuracy, exact_matches, write_responses


def run(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    config: o.Config = None,
    adapter: o.AdapterFolder = None,
    split: o.Split = "test",
    field: o.Fields = None,
    template: o.TemplateOfAdapter = None,
    task: o.TaskName = None,
    write: Annotated[
        Path | None, typer.Option(help="With --task: keep the responses here, one JSON object a line.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows alone.")] = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    batch_size: o.BatchSize = 8,
    generate: Annotated[bool, typer.Option("--generate", help="Also generate, and count exact matches.")] = False,
    max_new_tokens: o.MaxNewTokens = 64,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    device: o.DeviceName = "cpu",
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Loss and perplexity on held-out rows, and a task's own scores.

    With --generate also exact matches; --task names the task.
    """
    template = template_of_rows(template, task, adapter)
    screen, source = Screen(json), data_source(context, template=template)
    check_write(source.task, write)
    if not generate and task is None:
        say_unused(context, "nothing is generated without --generate or --task", "max_new_tokens")
    rows = source.rows(split)[:limit]
    tokenizer = tr.load_tokenizer_for(model, rows)
    if generate or task is not None:
        say_unused_choices(context)
    if generate:
        check_pairs(data, rows)
    ready, _ = tr.load_adapted(model, adapter, dtype, device, hold=hold)
    samples, left_out = source.encoded(rows, ready, tokenizer)
    warn(*left_out.lines())
    result = tr.evaluate(ready, samples, batch_size=batch_size)
    found: dict[str, Any] = {"loss": result.loss, "perplexity": result.perplexity, "tokens": result.tokens}
    found |= {
        "file": str(source.file(split)),
        "samples": len(samples),
        "too_long": len(left_out.too_long),
        "unlabelled": len(left_out.unlabelled),
    }
    unit = "row" if sample_form(ready) == "classes" else "token"
    parts = f" in {len(samples)} parts" if len(samples) > left_out.used else ""
    screen.say(
        f"{source.file(split).name}: {left_out.used} of {len(rows)} rows{parts}, {result.tokens:,} scored {unit}s"
    )
    perplexity = f", perplexity {result.perplexity:.3f}" if unit == "token" else ""
    screen.say(f"loss {result.loss:.4f} nats a {unit}{perplexity}")
    if tokenizer is not None and (generate or task is not None):
        answering = tr.Answering(ready, tokenizer, template, max_new_tokens, max_length)
        found |= answered(screen, answering, source.task, rows, left_out, write=write, generate=generate)
    screen.finish(found)


def check_write(task: tr.Task | None, write: Path | None) -> None:
    """ConfigError if responses are to be written without a task, or a task needs them written; before any work."""
    if write is not None and task is None:
        raise ConfigError("--write keeps the responses of a --task: name one")
    if write is None and task is not None and task.kind in SCORED_ELSEWHERE:
        raise ConfigError(f"task {task.name}: its responses are scored elsewhere: name a file, --write FILE")
    check_file(write, "--write")


def check_pairs(data: Path, rows: list[Row]) -> None:
    """ConfigError for rows that have no response of text to compare with."""
    if any(row.form in ("text", "tokens") for row in rows):
        raise ConfigError(
            f"{data}: --generate needs rows with a prompt and a response of text to compare with; rows of text alone "
            "or of input_ids have none"
        )


def answered(
    screen: Screen,
    answering: tr.Answering,
    task: tr.Task | None,
    rows: list[Row],
    left_out: EncodingReport,
    *,
    write: Path | None,
    generate: bool,
) -> dict[str, Any]:
    """Exact matches (with --generate) and a task's scores, said, and as values for a machine."""
    needs_all = task is not None and task.choices  # options are weighed: the whole of a row must fit
    dropped = [*left_out.unlabelled, *(left_out.too_long if needs_all else ())]
    used = answering.answerable(rows, () if needs_all else left_out.too_long, dropped)
    found: dict[str, Any] = {}
    if generate:
        with screen.stages() as progress:
            matches = exact_matches(answering, used, progress=progress)
        screen.say(f"exact match {matches.right} of {matches.rows} ({matches.share:.1%})")
        found |= {"exact": matches.right, "rows": matches.rows, "accuracy": matches.share}
    if task is not None:
        with screen.stages() as progress:
            result = tr.evaluate_task(answering, task, used, progress=progress)
        if write is not None:
            write_responses(write, result)
            screen.say(f"wrote {write}: {len(result.responses)} responses")
        found |= say_scores(screen, len(used), result.scores)
    return found


SCORES = {
    "accuracy": "accuracy",
    "accuracy_likelihood": "accuracy by likelihood",
    "accuracy_likelihood_per_token": "accuracy by likelihood a token",
}


def say_scores(screen: Screen, rows: int, scores: Mapping[str, Accuracy]) -> dict[str, Any]:
    """A task's scores, said, and as values for a machine."""
    for key, score in scores.items():
        screen.say(f"{SCORES[key]} {score.share:.1%} ({score.right} of {score.rows})")
    return {"rows": rows, **{key: score.share for key, score in scores.items()}}
