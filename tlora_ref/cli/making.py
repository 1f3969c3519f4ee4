"""`tlora-ref init` and `tlora-ref merge`: adapters made, and folded into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.checkpoint import check_output, rounding_report
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen
from tlora_ref.cli.work import AdapterChoice, DataChoice, data_facts, make_adapter, manifest, tokenizer_for
from tlora_ref.errors import ConfigError

Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]


def init(
    model: o.ModelFolder,
    data: o.Data,
    out: Out,
    config: o.Config = None,
    samples: o.Samples = 32,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    profile: o.Profile = "paper",
    init: o.Init = "wc-svd",
    seed: o.Seed = 42,
    uniform_rank: o.UniformRank = False,
    uniform_scale: o.UniformScale = False,
    rank_floor: o.RankFloor = None,
    redistribute: o.Redistribute = False,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    max_length: o.MaxLength = None,
    stats: Annotated[Path | None, typer.Option(help="Use these calibration statistics instead.")] = None,
    save_stats: Annotated[Path | None, typer.Option(help="Keep the calibration statistics in this file.")] = None,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Calibrate, allocate and initialise: writes a PEFT adapter folder (B is zero)."""
    screen = Screen(json)
    check_output(out, overwrite=overwrite, replace=True)
    choice = AdapterChoice(
        rank, alpha, target, profile, init, samples, seed, uniform_rank, uniform_scale, rank_floor, redistribute
    )
    source = DataChoice(data, o.pairs(field), template, max_length)
    rows = source.rows(split)
    base = tr.load_model(model, dtype, device)
    encoded = source.samples(rows, base, tokenizer_for(model, rows))
    adapter, indices = make_adapter(screen, base, encoded, choice, stats, save_stats)
    facts = manifest(calibration=data_facts(source.file(split), indices), dtype=dtype)
    tr.save_peft(adapter, out, base_model=str(model), facts=facts, overwrite=overwrite)
    screen.say(f"wrote {out} ({len(adapter.modules)} modules)")
    plan = adapter.plan
    screen.finish({"out": str(out), "modules": len(adapter.modules), "plan": None if plan is None else plan.to_dict()})


def merge(
    model: o.ModelFolder,
    adapter: Annotated[Path, typer.Option(help="PEFT adapter folder.", show_default=False)],
    out: Out,
    config: o.Config = None,
    dtype_out: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Fold an adapter into the weights: writes a Hugging Face folder that transformers loads."""
    screen = Screen(json)
    check_output(out, overwrite=overwrite, replace=True)
    if out.resolve() == model.resolve():
        raise ConfigError(f"{out}: is the model's own folder; merge into a new one")
    base = tr.load_model(model, dtype, device)
    merged = base.merge(tr.load_peft(adapter, dtype, device))
    report = rounding_report(base, merged, dtype_out)
    tr.save_model(merged, out, dtype_out, source=model, overwrite=overwrite)
    worst = max(report, key=lambda name: report[name])
    mean = sum(report.values()) / len(report)
    screen.say(f"wrote {out}: {len(report)} modules merged, {dtype_out}")
    screen.say(f"rounding to {dtype_out} loses {mean:.2%} of the update on average, {report[worst]:.2%} at {worst}")
    screen.finish({"out": str(out), "dtype": dtype_out, "rounded_away": report})
