"""`tlora-ref plan`: parameters, memory and time from a configuration alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref import machine
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen, counted, duration, seconds, size, warn
from tlora_ref.cli.settings import data_source, given, say_unused, train_settings
from tlora_ref.cli.settings import labels as classes
from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import HOLDERS, KEPT
from tlora_ref.planning.time import EFFICIENCY


def run(
    context: typer.Context,
    model: o.ModelFolder,
    config: o.Config = None,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    samples: o.Samples = 32,
    tokens: o.SampleTokens = 512,
    workers: o.Workers = 1,
    data: Annotated[Path | None, typer.Option("--data", help="Reckon with the rows of this data.")] = None,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    batch_size: o.BatchSize = 8,
    group_by_length: o.GroupByLength = False,
    grad_accumulation: Annotated[int, typer.Option(min=1, help="Forward passes of one step.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; overrides --epochs.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over --data.")] = 1.0,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Parameters, memory and time of an adapter, from config.json.

    MODEL is the folder, or the file alone. With --data the lengths of its rows are reckoned with, and how many steps
    they make.
    """
    screen, settings = Screen(json), train_settings(context)
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise ConfigError(f"--alpha {alpha}: expected a positive, finite number")
    memory = tr.plan_memory(model, rank, target)
    show_memory(screen, memory, alpha)
    lengths = row_lengths(context, model)
    mean = tokens if lengths is None else tr.mean_tokens(lengths)
    time = tr.plan_time(memory, samples=samples, tokens=mean, workers=workers)
    show_time(context, screen, time, samples, workers)
    training = show_training(screen, memory, settings, lengths, tokens)
    found = {"alpha": alpha, "machine_bytes": machine.memory(), **memory.to_dict(), **time.to_dict()}
    screen.finish({**found, "training": training})


def row_lengths(context: typer.Context, model: Path) -> list[int] | None:
    """Tokens of each sample of --data; None without."""
    if context.params["data"] is None:
        say_unused(context, "it says how --data are read", "split", "field", "template", "task", "labels", "max_length")
        say_unused(context, "without --data there are no rows to pass over", "epochs", "too_long", "group_by_length")
        return None
    source = data_source(context)
    rows = source.rows(context.params["split"])
    ready = tr.weightless_model(model, classes(context, source))
    samples, left_out = source.encoded(rows, ready, tr.load_tokenizer_for(model, rows))
    warn(*left_out.lines())
    return [len(sample["input_ids"]) for sample in samples]


def show_training(
    screen: Screen, memory: tr.MemoryPlan, settings: tr.TrainSettings, lengths: list[int] | None, tokens: int
) -> dict[str, Any] | None:
    """About what training takes; None for a model that has no loss."""
    steps = settings.steps if lengths is None else settings.total_steps(len(lengths))
    rows = settings.batch_size
    padded = tokens
    if lengths is not None:
        padded = tr.padded_tokens(lengths, rows, settings.seed, group_by_length=settings.group_by_length)
    try:
        found = tr.plan_training(
            memory, tokens=padded, batch_size=rows, grad_accumulation=settings.grad_accumulation, steps=steps
        )
    except ConfigError as error:
        screen.say(f"Training: {error}")
        return None
    how = "by a part of a step, done now" if found.measured else "by its operations"
    screen.say(f"Training B in float32, about, {how}")
    times = f"{settings.grad_accumulation} x " if settings.grad_accumulation > 1 else ""
    screen.say(f"  a step, {times}{rows} rows of {found.tokens} tokens with padding: {seconds(found.step_seconds)}")
    if found.seconds is not None:
        screen.say(f"  {steps} steps, without held-out evaluation: {seconds(found.seconds)}")
    screen.say(f"  memory at peak, all in all: {size(found.peak_bytes)}")
    return found.to_dict()


def show_memory(screen: Screen, memory: tr.MemoryPlan, alpha: float) -> None:
    """The target modules, the budget and the table of memory."""
    modules = len(memory.shapes)
    screen.say(f"{memory.model_type}: {memory.weights:,} weights, {modules} target modules")
    kinds = Counter((module.rpartition(".")[2], shape) for module, shape in memory.shapes.items())
    rows = [(name, f"{d_out:,}", f"{d_in:,}", str(n)) for (name, (d_out, d_in)), n in kinds.items()]
    screen.table("Target modules", ("name", "d_out", "d_in", "modules"), rows)
    said = f"{modules} x {memory.rank} = {memory.budget:,}, mean scale {memory.mean_scale(alpha):g}"
    screen.say(f"Budget: ranks sum to {said}")
    screen.say(f"  LoRA, A and B trained:                  {memory.lora_parameters:>15,} parameters")
    screen.say(f"  frozen A, uniform rank, B trained:      {memory.frozen_A_parameters:>15,} parameters")
    screen.say("  TLoRA's own count depends on the data: `tlora-ref init` prints it")
    taken = [memory.bytes(*kept) for kept in KEPT.values()]
    lines = [(name.replace("_", " "), *(size(t[name]) for t in taken), what) for name, what in HOLDERS.items()]
    screen.table("Memory, beside activations (bfloat16: --hold)", ("", *KEPT, ""), lines)
    screen.say("Calibration holds two such sets of covariances (init --layers-at-once 1: of a\nlayer), a worker one")
    show_fit(screen, memory, machine.memory())


def show_fit(screen: Screen, memory: tr.MemoryPlan, there: int | None) -> None:
    """What each kind of work needs, and whether this machine, which has `there` bytes, has room for it."""
    work = [memory.work(*kept) for kept in KEPT.values()]

    def cell(need: int) -> str:
        return size(need) if there is None else f"{size(need)}, {'yes' if need < there else 'no'}"

    lines = [(what, *(cell(kept[what]) for kept in work)) for what in work[0]]
    fits = "" if there is None else f": does it fit into the {size(there)} of this machine?"
    screen.table(f"Work, beside activations{fits}", ("", *KEPT), lines)


def show_time(context: typer.Context, screen: Screen, time: tr.TimePlan, samples: int, workers: int) -> None:
    """About how long the work before training takes."""
    asked = context.params["tokens"]
    if time.tokens < asked and given(context, ["tokens"]) and context.params["data"] is None:
        warn(f"--tokens {asked} is beyond the model's context: it is reckoned with {time.tokens}")
    machines = f"; {workers} such machines calibrate" if workers > 1 else ""
    rate = time.gflop_per_second
    screen.say(f"Time in float32, about, at {EFFICIENCY:.0%} of the {rate:,.0f} GFLOP/s measured now{machines}")
    screen.say(
        f"  calibration, {counted(samples, 'sample')} of {time.tokens} tokens: {duration(time.hours['calibration'])}"
    )
    screen.say(f"  initialisation, the SVD of every W C: {duration(time.hours['initialisation'])}")
