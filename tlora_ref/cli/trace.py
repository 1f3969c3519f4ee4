"""`trace`: a whole run recorded, for others to be held against."""

from __future__ import annotations

from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_folder, command_line, data_facts, write_beside
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.settings import data_source, say_unused, switches, train_settings
from tlora_ref.data import choose_samples
from tlora_ref.oracle.traces.record import EXTRAS, STAGES

Stages = Annotated[
    list[str] | None,
    typer.Option("--stages", help=f"May be repeated: {', '.join(STAGES)}; and {', '.join(EXTRAS)} (large tensors)."),
]


def run(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    out: o.Out,
    config: o.Config = None,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to record.")] = 5,
    samples: o.Samples = 8,
    stages: Stages = None,
    target: o.Targets = None,
    profile: o.Profile = "paper",
    switch: o.SwitchValues = None,
    init: o.Init = "wc-svd",
    uniform_rank: o.UniformRank = False,
    uniform_scale: o.UniformScale = False,
    scale_rule: o.ScaleRule = "alpha/r_init",
    lr: o.LearningRate = 1e-2,
    schedule: o.Schedule = "constant",
    warmup_ratio: o.WarmupRatio = 0.0,
    betas: o.Betas = (0.9, 0.999),
    eps: o.Eps = 1e-8,
    weight_decay: o.WeightDecay = 0.01,
    max_grad_norm: o.MaxGradNorm = None,
    batch_size: o.BatchSize = 1,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    max_length: o.MaxLength = None,
    no_noise: Annotated[bool, typer.Option("--no-noise", help="Do not measure other precisions beside it.")] = False,
    seed: o.Seed = 42,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Record a whole run, for others to be held against.

    Every quantity by its name: calibration, allocation, A, training, merge.
    """
    screen = Screen(json)
    if not uniform_scale:
        say_unused(context, "it says what --uniform-scale means", "scale_rule")
    check_folder(out, overwrite=overwrite, replace=True, model=model, data=data)
    source = data_source(context)
    rows = source.rows(split)
    base = tr.load_model(model, dtype, device)
    encoded, left_out = source.encoded(rows, base, tr.load_tokenizer_for(model, rows))
    warn(*left_out.lines())
    chosen, indices = choose_samples(encoded, min(samples, len(encoded)), seed)
    screen.say(f"recording {len(chosen)} samples of {source.file(split)}, {steps} training steps")
    manifest = tr.trace(
        base,
        chosen,
        out,
        profile=switches(context),
        r_init=rank,
        alpha=alpha,
        steps=steps,
        stages=stages,
        targets=target or None,
        init=init,
        seed=seed,
        adapt_rank=not uniform_rank,
        adapt_scale=not uniform_scale,
        uniform_scale=scale_rule,
        settings=train_settings(context),
        noise=not no_noise,
        overwrite=overwrite,
        facts={
            "command": command_line(context),
            "checkpoint": {"folder": str(model)},
            "data": {**data_facts(source.file(split)), "indices": indices},
        },
    )
    write_beside(out, context)
    screen.say(f"wrote {out} ({len(manifest.modules)} modules, profile {manifest.profile}, {manifest.dtype})")
    screen.finish({"out": str(out), "modules": len(manifest.modules), "stages": manifest.stages})
