"""`tlora-ref init` and `tlora-ref merge`: adapters made, and folded into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.checkpoint import rounding_report
from tlora_ref.checkpoint.save import file_dtype
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_file, check_folder, data_facts, manifest, write_beside
from tlora_ref.cli.show import Screen, warn
from tlora_ref.cli.work import (
    AdapterChoice,
    DataChoice,
    Sample,
    attach,
    chosen,
    make_adapter,
    say_memory,
    tokenizer_for,
)
from tlora_ref.errors import ConfigError


def init(
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
    max_length: o.MaxLength = None,
    stats: Annotated[
        Path | None, typer.Option(help="Use these calibration statistics; --data is not read then.")
    ] = None,
    save_stats: Annotated[Path | None, typer.Option(help="Keep the calibration statistics in this file.")] = None,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Calibrate, allocate and initialise: writes a PEFT adapter folder (B is zero)."""
    screen, choice = Screen(json), chosen(context, AdapterChoice)
    check_folder(out, overwrite=overwrite, replace=True, model=model, data=data, statistics=stats)
    check_file(save_stats, "--save-stats")
    if data is None and stats is None:
        raise ConfigError("init calibrates on --data, or takes the statistics of --stats: give one of the two")
    source = None if data is None or stats is not None else DataChoice.of(data, field, template, max_length, task)
    rows = [] if source is None else source.rows(split)
    say_memory(screen, model, choice, dtype)
    base = tr.load_model(model, dtype, device)
    encoded: list[Sample] = []
    if source is not None:
        encoded = source.encoded(rows, base, tokenizer_for(model, rows))[0]
    adapter, indices = make_adapter(screen, base, encoded, choice, stats, save_stats, workers)
    used = {"statistics": str(stats)} if source is None else data_facts(source.file(split))
    facts = manifest(context, data=used, calibration=indices, dtype=dtype)
    tr.save_peft(adapter, out, base_model=str(model), facts=facts, overwrite=overwrite)
    write_beside(out, context)
    screen.say(f"wrote {out} ({len(adapter.modules)} modules)")
    plan: dict[str, Any] = {} if adapter.plan is None else adapter.plan.to_dict()
    counts = {"modules": len(adapter.modules), "trainable_parameters": adapter.trainable_parameters()}
    screen.finish({"out": str(out), **counts, "calibration": indices, "plan": plan})


def merge(
    context: typer.Context,
    model: o.ModelFolder,
    adapter: Annotated[Path, typer.Option(help="PEFT adapter folder.", show_default=False)],
    out: o.Out,
    config: o.Config = None,
    dtype_out: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Fold an adapter into the weights: writes a Hugging Face folder that transformers loads."""
    screen = Screen(json)
    check_folder(out, overwrite=overwrite, replace=True, model=model, adapter=adapter)
    file_dtype(dtype_out)
    low_rank = tr.load_peft(adapter, dtype, device)
    say_memory(screen, model, None, dtype)
    base = tr.load_model(model, dtype, device)
    attach(base, low_rank)  # refuses one that does not fit
    base.detach()
    merged = base.merge(low_rank)
    report = rounding_report(base, merged, dtype_out, low_rank.modules)
    tr.save_model(merged, out, dtype_out, source=model, overwrite=overwrite)
    write_beside(out, context)
    worst = max(report, key=lambda name: report[name])
    mean = sum(report.values()) / len(report)
    screen.say(f"wrote {out}: {len(report)} modules merged, {dtype_out}")
    screen.say(f"rounding to {dtype_out} loses {mean:.2%} of the update on average, {report[worst]:.2%} at {worst}")
    if mean > 0.1:
        warn(f"{dtype_out} rounds much of the update away: write --dtype-out float32, or keep the adapter apart")
    rounded = {"rounded_away": report, "rounded_away_mean": mean}
    screen.finish({"out": str(out), "dtype": dtype_out, "modules": len(report), **rounded})
