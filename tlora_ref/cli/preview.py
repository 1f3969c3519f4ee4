"""`tlora-ref preview`: rows as a model will be trained on them, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli import settings
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import data_source, say_unused, train_settings
from tlora_ref.data import Row, Tokenizer
from tlora_ref.errors import TLoRAError

#: Tokens of a row that are shown without --full.
EXCERPT = 300
#: Flags of the batch of --forward.
OF_A_BATCH = ("batch_size", "group_by_length", "packing", "seed", "dtype", "device")


def run(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    config: o.Config = None,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    rows: Annotated[int, typer.Option(min=1, help="How many rows that are used are shown.")] = 3,
    full: Annotated[bool, typer.Option("--full", help="Show rows whole, however long.")] = False,
    forward: Annotated[bool, typer.Option("--forward", help="Also the loss of the first batch.")] = False,
    batch_size: o.BatchSize = 4,
    group_by_length: o.GroupByLength = False,
    packing: o.Packing = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the order in which training takes rows.")] = 42,
    dtype: o.Dtype = "float32",
    device: o.DeviceName = "cpu",
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Show rows as rendered and tokenised, and what is left out.

    What is scored is in colour, elsewhere in [[ ]]; of what is left out it is said why.
    """
    screen, source = Screen(json), data_source(context)
    if not forward:
        say_unused(context, "no batch is computed without --forward", *OF_A_BATCH)
    found = source.rows(split)
    classes = settings.labels(context, source)
    seen = tr.preview(source, found, tr.weightless_model(model, classes), _tokenizer(model, found), show=rows)
    for row in seen.rows:
        _show(screen, row, None if full else EXCERPT)
    _summary(screen, seen)
    lengths = None if seen.lengths is None else asdict(seen.lengths)
    values = {"rows": list(map(_values, seen.rows)), **asdict(seen.report), "of": seen.count, "lengths": lengths}
    if forward:
        weighted, _ = tr.load_adapted(model, None, dtype, device, labels=classes, seed=seed)
        values["forward"] = _first_batch(screen, context, weighted, seen.samples)
    screen.finish(values)


def _tokenizer(model: Path, rows: list[Row]) -> Tokenizer | None:
    """The model's tokenizer. Rows of tokens do without, and are then shown by number."""
    needed = tr.load_tokenizer_for(model, rows)
    if needed is not None:
        return needed
    try:
        return tr.load_tokenizer(model)
    except TLoRAError:
        return None


def _show(screen: Screen, row: tr.RowPreview, limit: int | None) -> None:
    if not row.tokens:
        screen.say(f"{row.where}: {row.fate}")
        return
    scored = f", {row.scored} scored" if row.label is None else ""
    screen.say(f"{row.where}: {len(row.tokens)} tokens{scored}: {row.fate}")
    parts = row.excerpt(len(row.tokens) if limit is None else limit)
    shown = [(f" ... {p} tokens ... ", False) if isinstance(p, int) else (p.text, p.scored) for p in parts]
    screen.passage(shown)
    if row.answer:
        screen.passage([("answer: ", False), *((token.text, token.scored) for token in row.answer)])
    if row.label is not None:
        screen.say(f"    class: {row.label}")
    if row.seam is not None:
        before, after = (" ".join(_quoted(token.text) for token in side) for side in row.seam)
        screen.say(f"    seam: {before} | {after}")
    if row.end is not None:
        more = f", then {_quoted(row.last.text)}" if row.last is not None and row.last != row.end else ""
        screen.say(f"    ends with {_quoted(row.end.text)} (token {row.end.id}){more}")
    if not row.ended:
        screen.say("    a response has no end token: a model does not learn to stop from it")


def _quoted(text: str) -> str:
    """What a token adds to the text, in quotes; an ellipsis where its character is complete at a later token only."""
    return repr(text) if text else "…"


def _summary(screen: Screen, seen: tr.Preview) -> None:
    report = seen.report
    parts = f", as {report.samples} samples" if report.samples > report.used else ""
    screen.say(f"{report.used} of {seen.count} rows are used{parts}")
    if seen.lengths is not None:
        at = seen.lengths
        screen.say(
            f"tokens a row: {at.fewest} to {at.most}, median {at.median:g}; {at.scored:,} of {at.total:,} are scored"
        )
    warn(*report.lines())


def _values(row: tr.RowPreview) -> dict[str, Any]:
    return {**asdict(row), "scored": row.scored}


def _first_batch(
    screen: Screen, context: typer.Context, model: tr.Model, samples: list[Mapping[str, Any]]
) -> dict[str, Any]:
    run = train_settings(context, packing=settings.packed_length(context))
    found = tr.first_batch_loss(model, samples, run)
    screen.say(
        f"first batch: {found.rows} rows of {found.longest} tokens {'packed' if run.packing else 'with padding'}"
    )
    screen.say(
        f"its loss: {found.loss:.4f} nats a scored token ({found.tokens:,}); knowing nothing: {found.uniform:.4f}"
    )
    return asdict(found)
