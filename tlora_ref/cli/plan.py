"""`tlora-ref plan`: parameters, memory and time from a configuration alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref import machine
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen, counted, seconds, size, warn
from tlora_ref.cli.settings import data_source, given, packed_length, say_unused, split_rows, train_settings
from tlora_ref.cli.settings import labels as classes
from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import HOLDERS, KEPT

Samples = list[dict[str, Any]]


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
    valid: o.Valid = None,
    valid_share: o.ValidShare = None,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    batch_size: o.BatchSize = 8,
    group_by_length: o.GroupByLength = False,
    packing: o.Packing = False,
    grad_accumulation: Annotated[int, typer.Option(min=1, help="Forward passes of one step.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; overrides --epochs.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over --data.")] = 1.0,
    eval_every: o.EvalEvery = None,
    seed: o.Seed = 42,
    hold: o.Hold = None,
    recompute: o.Recompute = False,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Parameters, memory and time of an adapter, from config.json.

    MODEL is the folder, or the file alone. With --data the run is planned that `train` makes with the same flags.
    """
    screen, settings = Screen(json), train_settings(context, packing=packed_length(context))
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise ConfigError(f"--alpha {alpha}: expected a positive, finite number")
    source = None if data is None else data_source(context)
    names = classes(context, source)
    memory = tr.plan_memory(model, rank, target, names)
    rows, held_out = run_samples(context, memory, source, names)
    show_memory(screen, memory, alpha)
    found = {"alpha": alpha, "machine_bytes": machine.memory(), **memory.to_dict()}
    if names is None and tr.is_bare_encoder(model):
        screen.say("A bare encoder has no loss: with --labels a,b or --task its run is planned too")
        screen.finish({**found, "run": None})
        return
    options: dict[str, Any] = {
        "tokens": tokens,
        "samples": samples,
        "workers": workers,
        "eval_every": eval_every,
        "hold": hold,
    }
    plan = tr.plan_run(memory, rows, held_out, settings=settings, recompute=recompute, **options)
    show_run(screen, plan, settings, options)
    screen.finish({**found, "run": plan.to_dict()})


def run_samples(
    context: typer.Context, memory: tr.MemoryPlan, source: tr.DataSource | None, names: tuple[str, ...] | None
) -> tuple[Samples | None, Samples]:
    """The samples of --data, and those held out; without --data neither."""
    if source is None:
        say_unused(
            context, "it says how --data are read", "split", "field", "template", "task", "max_length", "too_long"
        )
        say_unused(context, "without --data there are no rows", "epochs", "valid", "valid_share", "eval_every")
        say_unused(context, "without --data all rows are of one length", "group_by_length")
        tokens = context.params["tokens"]
        if given(context, ["tokens"]) and memory.sample_tokens(tokens) < tokens:
            warn(f"--tokens {tokens} is beyond the model's context: it is reckoned with {memory.sample_tokens(tokens)}")
        return None, []
    rows, held = split_rows(context, source)
    model = context.params["model"]
    ready, tokenizer = tr.weightless_model(model, names), tr.load_tokenizer_for(model, [*rows, *held])
    samples, left_out = source.encoded(rows, ready, tokenizer)
    warn(*left_out.lines())
    return samples, source.encoded(held, ready, tokenizer)[0] if held else []


def show_run(screen: Screen, plan: tr.RunPlan, settings: tr.TrainSettings, options: Mapping[str, Any]) -> None:
    """About how long a run takes, and what it holds."""
    how = "parts of it done now" if plan.measured else "its operations at the rate of products now"
    screen.say(f"The run, about, by {how}; weights in {options['hold'] or 'float32'}")
    took, peaks = plan.seconds, plan.peak_bytes
    machines = f", {options['workers']} such machines" if options["workers"] > 1 else ""
    drawn = f"{counted(options['samples'], 'sample')} of {plan.sample_tokens:.0f} tokens{machines}"
    screen.say(f"  calibration, {drawn}: {seconds(took['calibration'])}, {size(peaks['calibration'])} at peak")
    screen.say(f"  initialisation, A of every module: {seconds(took['initialisation'])}")
    times = f"{settings.grad_accumulation} x " if settings.grad_accumulation > 1 else ""
    padding = "packed" if settings.packing else "with padding"
    step = f"a step, {times}{plan.rows:.3g} rows of {plan.tokens:.0f} tokens {padding}"
    screen.say(f"  {step}: {seconds(took['step'])}, {size(peaks['training'])} at peak")
    if plan.evaluations:
        screen.say(f"  held-out rows, {plan.evaluations} times: {seconds(took['evaluation'])} each")
    if plan.total_seconds is not None:
        screen.say(f"  all of it, {counted(plan.steps or 0, 'step')}: {seconds(plan.total_seconds)}")


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
