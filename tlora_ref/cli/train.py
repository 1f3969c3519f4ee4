"""`tlora-ref train`: calibrate, allocate, initialise, train B, keep everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.calibration import CALIBRATION_FILE
from tlora_ref.cli import options as o
from tlora_ref.cli.curves import show_losses
from tlora_ref.cli.output import UNUSED, read_beside
from tlora_ref.cli.prompting import noted
from tlora_ref.cli.run_folder import (
    END,
    FREE,
    START,
    begin_folder,
    check_from_step,
    check_log,
    check_run_folder,
    event_log,
    run_facts,
    say_stopped,
)
from tlora_ref.cli.screen import Screen, StepLine, counted, seconds, warn
from tlora_ref.cli.settings import (
    ADAPTER_FLAGS,
    adapter_settings,
    data_source,
    given,
    packed_length,
    say_unused,
    split_rows,
    train_settings,
)
from tlora_ref.cli.settings import labels as classes
from tlora_ref.cli.tables import say_memory, show_plan
from tlora_ref.data import Row
from tlora_ref.errors import ConfigError
from tlora_ref.files import claimed
from tlora_ref.training import STATE_FILE, TrainResult, check_packing, whole_tensors

Samples = list[dict[str, Any]]


def run(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    out: o.Out,
    config: o.Config = None,
    adapter: Annotated[Path | None, typer.Option(help="Train this adapter instead of making one.")] = None,
    valid: o.Valid = None,
    valid_share: o.ValidShare = None,
    samples: o.Samples = 32,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    profile: o.Profile = "paper",
    init: o.Init = "wc-svd",
    seed: o.Seed = 42,
    uniform_rank: o.UniformRank = False,
    uniform_scale: o.UniformScale = False,
    scale_rule: o.ScaleRule = "alpha/r_init",
    rank_floor: o.RankFloor = None,
    redistribute: o.Redistribute = False,
    switch: o.SwitchValues = None,
    trainable: Annotated[
        str | None, typer.Option(help="B or AB; by default B where the adapter's A is frozen (profile paper), else AB.")
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="A whole tensor or module to train beside it.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; overrides --epochs.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    batch_size: o.BatchSize = 8,
    group_by_length: o.GroupByLength = False,
    packing: o.Packing = False,
    grad_accumulation: Annotated[int, typer.Option(help="Forward passes of one step.")] = 1,
    lr: o.LearningRate = 1e-3,
    schedule: o.Schedule = "cosine",
    warmup_ratio: o.WarmupRatio = 0.03,
    warmup_steps: o.WarmupSteps = None,
    min_lr: o.LeastRate = 0.0,
    cycles: o.Cycles = 1,
    betas: o.Betas = (0.9, 0.999),
    eps: o.Eps = 1e-8,
    weight_decay: o.WeightDecay = 0.01,
    max_grad_norm: o.MaxGradNorm = None,
    eval_every: o.EvalEvery = None,
    keep: o.Keep = "best",
    patience: o.Patience = None,
    save_every: o.SaveEvery = None,
    keep_last: o.KeepLast = None,
    log: Annotated[str | None, typer.Option(help="tensorboard: each step into OUT/tensorboard as well.")] = None,
    log_every: Annotated[int, typer.Option(min=1, help="A row of metrics.csv, and off a terminal a line.")] = 1,
    resume: o.Resume = False,
    from_step: o.FromStep = None,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    base_model_id: o.BaseModelId = None,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    recompute: o.Recompute = False,
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    download: o.Download = False,
    full: o.Full = False,
    json: o.Json = False,
) -> None:
    """Fine-tune: make an adapter and train it, or go on with a run.

    OUT/adapter is the trained adapter; OUT has the history and the manifest beside it.
    """
    screen, making, settings = Screen(json), adapter_settings(context), checked_settings(context)
    if steps is not None:
        say_unused(context, "--steps says how long", "epochs")
    only_training(context)
    check_run_folder(out, overwrite=overwrite, resume=resume, model=model, data=data, valid=valid, adapter=adapter)
    calibrating = resume and adapter is None and (out / CALIBRATION_FILE).is_file()
    facts = read_beside(out, context, free=FREE) if resume and not calibrating else None
    check_log(log, out)
    check_from_step(out, from_step, resume=facts is not None)
    source = data_source(context)
    rows, held = split_rows(context, source)
    start = adapter if facts is None else out / START
    knowing = tr.weightless_model(model, classes(context, source), start)  # what is wrong with rows is told at once
    train_samples, valid_samples = encoded(source, knowing, model, rows, held)
    settings.check_rates(len(train_samples))
    say_memory(screen, model, dtype, hold, None if start else making)
    base, trained = tr.load_adapted(model, start, dtype, device, hold=hold, labels=classes(context, source), seed=seed)
    base.recompute = base.recompute or recompute
    settings = with_fresh_head(screen, base, settings)
    say_of_head(base, whole_tensors(base, settings.also))
    check_packing(base, train_samples, settings.packing)
    context.with_resource(claimed(out))
    try:
        indices = None
        if trained is None:
            kept: dict[str, Any] = {"kept": out / CALIBRATION_FILE, "resume": calibrating}
            trained, indices = made(screen, base, train_samples, making, full=full, **kept)
        elif trained.plan is not None:
            show_plan(screen, trained.plan, full=full)
        if trainable is None and not trained.frozen_A:
            settings = replace(settings, trainable="AB")
        if facts is None:
            prompting = noted(tr.prompting_of(source, rows))
            facts = run_facts(context, base, trained, settings, train_samples, source.file(split), indices) | prompting
            begin_folder(out, context, trained, facts)
        origin = base_model_id or str(model)
        write = partial(tr.save_peft, trained, base_model=origin, facts=facts, overwrite=True)
        result, before = fit(screen, base, trained, train_samples, valid_samples, settings, context, write)
    except KeyboardInterrupt as stop:
        raise typer.Exit(say_stopped(out, context, stop, begun=facts is not None)) from None
    write(out / END)
    show_losses(screen, result.history)
    screen.say(f"wrote {out / END}: {trained.trainable_parameters():,} trained parameters")
    screen.finish(for_a_machine(out, trained, result, before))


def checked_settings(context: typer.Context, **changes: Any) -> tr.TrainSettings:
    """The training flags, checked; B alone is trained unless they say otherwise."""
    asked = context.params["trainable"]
    if asked not in (None, "B", "AB"):
        raise ConfigError(f"--trainable {asked}: expected B or AB")
    return train_settings(context, **{"trainable": asked or "B", "packing": packed_length(context), **changes})


def only_training(context: typer.Context) -> None:
    """With --adapter nothing is made: ConfigError for flags that say how, and none of them in config.yaml."""
    if context.params["adapter"] is None:
        return
    making = [name for name in ADAPTER_FLAGS if name != "seed"]
    useless = given(context, making)
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise ConfigError(f"--adapter brings an adapter that is made already: {flags} would do nothing, leave it out")
    context.meta[UNUSED] = making


def with_fresh_head(screen: Screen, base: tr.Model, settings: tr.TrainSettings) -> tr.TrainSettings:
    """A head that was made anew holds random numbers: it is trained beside the adapter, and that is said."""
    if not base.fresh:
        return settings
    modules = dict.fromkeys(name.rpartition(".")[0] for name in sorted(base.fresh))
    screen.say(f"a fresh head for {', '.join(base.labels)}, trained beside the adapter: {', '.join(modules)}")
    return replace(settings, also=tuple(dict.fromkeys((*settings.also, *sorted(base.fresh)))))


def say_of_head(base: tr.Model, also: list[str]) -> None:
    """A classifier's head stays as it is unless it is asked for: that is said, for a new one holds random numbers."""
    head = [name for name in base.whole_head() if name not in also]
    if head:
        flags = " ".join(f"--also {module}" for module in dict.fromkeys(name.partition(".")[0] for name in head))
        warn(f"the classification head is not trained. To train it beside the adapter: {flags}")


def encoded(
    source: tr.DataSource, base: tr.Model, folder: Path, rows: list[Row], held: list[Row]
) -> tuple[Samples, Samples]:
    """The samples to train on and those held out; what was left out of either is said."""
    tokenizer, found = tr.load_tokenizer_for(folder, [*rows, *held]), []
    for part in (rows, held):
        samples, left_out = source.encoded(part, base, tokenizer) if part else ([], None)
        warn(*(left_out.lines() if left_out else ()))
        found.append(samples)
    return found[0], found[1]


def made(
    screen: Screen, base: tr.Model, samples: Samples, settings: tr.AdapterSettings, *, full: bool, **kept: Any
) -> tuple[tr.Adapter, list[int]]:
    """An adapter of these settings, and which samples calibrated it; the allocation is printed.

    kept : where the calibration is kept while it runs, and whether it is resumed (see `calibrate_for`)
    """
    with screen.progress(f"calibrating on {counted(settings.samples, 'sample')}") as progress:
        statistics, indices = tr.calibrate_for(settings, base, samples, progress=progress, **kept)
    return tr.make_adapter(settings, base, statistics, on_plan=lambda plan: show_plan(screen, plan, full=full)), indices


def fit(
    screen: Screen,
    base: tr.Model,
    adapter: tr.Adapter,
    data: Samples,
    valid: Samples,
    settings: tr.TrainSettings,
    context: typer.Context,
    write: Callable[[Path], object],
) -> tuple[TrainResult, float | None]:
    """Train with progress, and the held-out loss before the first step (None on a resumed run) and after the last.

    `write` writes the adapter to a folder: beside each state that is kept, and to OUT/adapter whenever it is the best
    so far, so that a run that is killed leaves it.
    """
    flags = context.params
    out, before = Path(flags["out"]), None
    resume = flags["resume"] and (out / STATE_FILE).is_file()  # without a state it was stopped before the first step
    total = settings.total_steps(len(data))
    screen.say(f"training {settings.trainable} for {total} steps on {len(data)} samples, {len(valid)} held out")
    if valid and not resume:
        base.attach(adapter)
        before = tr.evaluate(base, valid, batch_size=settings.batch_size).loss
        screen.say(f"held-out loss before: {before:.4f}")
    with screen.progress("training", lines=False) as progress, event_log(flags["log"], out) as log:
        line = StepLine(screen, progress, total, flags["log_every"])

        def on_step(entry: dict[str, Any]) -> None:
            if entry.get("best") and entry["step"] < total and flags["keep"] == "best":
                write(out / END)
            log(entry)
            line.show(entry)

        options = {name: flags[name] for name in ("save_every", "keep", "keep_last", "patience", "log_every")}
        options["eval_every"] = flags["eval_every"] or (settings.steps_per_epoch(len(data)) if valid else None)
        options |= {"resume": resume, "from_step": flags["from_step"] if resume else None}
        options |= {"valid": valid, "out": out, "on_step": on_step, "save_adapter": write}
        result = tr.train(base, adapter, data, settings=settings, **options)
    say_end(screen, result, made=line.seen, held_out=bool(valid))
    return result, before


def say_end(screen: Screen, result: TrainResult, *, made: int, held_out: bool) -> None:
    """What came of a run of which `made` steps were made now."""
    if made:
        screen.say(f"trained in {seconds(result.seconds)}")
    else:
        screen.say(f"nothing was left to do: this run had ended, at step {result.steps}")
    if held_out:
        screen.say(f"held-out loss after: {result.history[result.kept - 1]['valid_loss']:.4f}")
        if result.kept != result.steps:
            screen.say(f"kept: the weights of step {result.kept} of {result.steps}, of least held-out loss")


def for_a_machine(out: Path, adapter: tr.Adapter, result: TrainResult, before: float | None) -> dict[str, Any]:
    """What --json prints of a run."""
    return {
        "out": str(out),
        "steps": result.steps,
        "kept": result.kept,
        "seconds": result.seconds,
        "trainable_parameters": adapter.trainable_parameters(),
        "valid_loss_before": before,
        "valid_loss_after": result.history[result.kept - 1].get("valid_loss"),
        "plan": None if adapter.plan is None else adapter.plan.to_dict(),
        "history": result.history,
    }
