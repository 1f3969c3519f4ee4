"""`tlora-ref init`: an adapter, made and not yet trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.calibration import CALIBRATION_FILE
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_file, data_facts, manifest, write_beside
from tlora_ref.cli.prompting import noted
from tlora_ref.cli.run_folder import check_calibration, check_run_folder, say_stopped
from tlora_ref.cli.screen import Screen, counted, warn
from tlora_ref.cli.settings import adapter_settings, data_source, say_unused
from tlora_ref.cli.settings import labels as classes
from tlora_ref.cli.tables import say_memory, show_plan
from tlora_ref.errors import ConfigError


def run(
    context: typer.Context,
    model: o.ModelFolder,
    out: o.Out,
    config: o.Config = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A .jsonl or .json file, or a directory of train, valid, test.")
    ] = None,
    samples: o.Samples = 32,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    profile: o.Profile = "paper",
    init: o.Init = "wc-svd",
    workers: o.Workers = 1,
    layers_at_once: o.LayersAtOnce = None,
    seed: o.Seed = 42,
    uniform_rank: o.UniformRank = False,
    uniform_scale: o.UniformScale = False,
    scale_rule: o.ScaleRule = "alpha/r_init",
    rank_floor: o.RankFloor = None,
    redistribute: o.Redistribute = False,
    switch: o.SwitchValues = None,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    labels: o.Labels = None,
    max_length: o.MaxLength = None,
    too_long: o.TooLong = "skip",
    stats: Annotated[
        Path | None, typer.Option(help="Use these calibration statistics; --data is not read then.")
    ] = None,
    save_stats: Annotated[Path | None, typer.Option(help="Keep the calibration statistics in this file.")] = None,
    base_model_id: o.BaseModelId = None,
    dtype: o.Dtype = "float32",
    hold: o.Hold = None,
    device: o.DeviceName = "cpu",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    download: o.Download = False,
    full: o.Full = False,
    json: o.Json = False,
) -> None:
    """Make an adapter: calibrate, allocate ranks, initialise A.

    OUT is a PEFT adapter's folder; B is zero.
    """
    screen, settings = Screen(json), adapter_settings(context)
    kept, places = out / CALIBRATION_FILE, {"model": model, "data": data, "statistics": stats}
    check_run_folder(out, overwrite=overwrite, resume=resume, replace=True, **places)
    if resume:
        check_calibration(out)
    check_file(save_stats, "--save-stats")
    if stats is not None:
        unused = (
            "data",
            "split",
            "field",
            "template",
            "task",
            "max_length",
            "too_long",
            "samples",
            "workers",
            "layers_at_once",
            "resume",
        )
        say_unused(context, "--stats brings the statistics", *unused)
    if data is None and stats is None:
        raise ConfigError("init calibrates on --data, or takes the statistics of --stats: give one of the two")
    if layers_at_once is not None and (resume or save_stats is not None):
        raise ConfigError(
            "--layers-at-once keeps no statistics of the whole model: leave out "
            + ("--resume" if resume else "--save-stats")
        )
    source = None if stats is not None else data_source(context)
    rows = [] if source is None else source.rows(split)
    encoded: list[dict[str, Any]] = []
    if source is not None:  # what is wrong with rows is told at once
        knowing = tr.weightless_model(model, classes(context, source))
        encoded, left_out = source.encoded(rows, knowing, tr.load_tokenizer_for(model, rows))
        warn(*left_out.lines())
    say_memory(screen, model, dtype, hold, settings, layers_at_once)
    base = tr.load_model(model, dtype, device, hold=hold, labels=classes(context, source), seed=seed)
    indices: list[int] | None = None
    adapter: tr.Adapter | None = None
    if source is not None:
        options: dict[str, Any] = {"workers": workers}
        try:
            parts = {None: "", 1: ", layer by layer"}.get(layers_at_once, f", {layers_at_once} layers at a time")
            with screen.progress(f"calibrating on {counted(samples, 'sample')}{parts}") as options["progress"]:
                if layers_at_once is not None:
                    adapter, indices = tr.adapter_in_parts(settings, base, encoded, layers_at_once, out, **options)
                else:
                    options |= {"kept": kept, "resume": resume}
                    statistics, indices = tr.calibrate_for(settings, base, encoded, **options)
        except KeyboardInterrupt as stop:
            raise typer.Exit(say_stopped(out, context, stop, begun=False)) from None
    elif stats is not None:
        statistics = tr.load_statistics(stats, settings.shapes(base))
        screen.say(f"statistics of {statistics.samples} samples from {stats}")
    if save_stats is not None:
        statistics.save(save_stats)
        screen.say(f"wrote {save_stats}")
    if adapter is None:
        adapter = tr.make_adapter(settings, base, statistics, on_plan=lambda plan: show_plan(screen, plan, full=full))
    elif adapter.plan is not None:
        show_plan(screen, adapter.plan, full=full)
    used = {"statistics": str(stats)} if source is None else data_facts(source.file(split))
    prompting = None if source is None else tr.prompting_of(source, rows)
    facts = manifest(context, data=used, calibration=indices, dtype=dtype, **noted(prompting))
    tr.save_peft(
        adapter, out, base_model=base_model_id or str(model), facts=facts, overwrite=overwrite or kept.is_file()
    )
    write_beside(out, context)
    screen.say(f"wrote {out} ({len(adapter.modules)} modules)")
    plan: dict[str, Any] = {} if adapter.plan is None else adapter.plan.to_dict()
    counts = {"modules": len(adapter.modules), "trainable_parameters": adapter.trainable_parameters()}
    screen.finish({"out": str(out), **counts, "calibration": indices, "plan": plan})
