"""`tlora-ref explain`: Algorithm 1 on the user's own model, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import data_source, switches
from tlora_ref.cli.settings import labels as classes
from tlora_ref.cli.tables import say_memory
from tlora_ref.pages import check_page


def run(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    out: Annotated[Path, typer.Option("--out", help="The page to write, a name in .html.", show_default=False)],
    config: o.Config = None,
    samples: o.Samples = 32,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    profile: o.Profile = "paper",
    switch: o.SwitchValues = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to show; more show more, and take longer.")] = 4,
    batch_size: o.BatchSize = 4,
    lr: o.LearningRate = 1e-3,
    workers: o.Workers = 1,
    seed: o.Seed = 42,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Write a page that explains Algorithm 1 on a model's numbers."""
    screen, source = Screen(json), data_source(context)
    check_page(out, overwrite=overwrite)
    chosen = tuple(target or ()) or None
    settings = tr.AdapterSettings(rank, alpha, chosen, switches(context), samples=samples, seed=seed)
    training = tr.TrainSettings(steps=steps, batch_size=batch_size, lr=lr, seed=seed)
    rows = source.rows(split)
    knowing = tr.weightless_model(model, classes(context, source))  # what is wrong with rows is told at once
    encoded, left_out = source.encoded(rows, knowing, tr.load_tokenizer_for(model, rows))
    warn(*left_out.lines())
    say_memory(screen, model, dtype, hold, settings)
    base = tr.load_model(model, dtype, device, hold=hold, labels=classes(context, source), seed=seed)
    with screen.stages() as progress:
        found = tr.explain(
            base,
            encoded,
            out,
            settings=settings,
            training=training,
            title=model.name,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    means = found.mean_shares()
    screen.say("J(A) over its bound, D = W_0: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
    screen.say(f"wrote {out}: open it in a browser")
    screen.finish({"out": str(out), "modules": len(found.choices), "mean_share": means, "ahead": found.ahead()})
