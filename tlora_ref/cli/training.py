"""`tlora-ref train`: calibrate, allocate, initialise, train B, keep everything."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import (
    CONFIG_FILE,
    HISTORY_FILE,
    MANIFEST_FILE,
    UNUSED,
    check_folder,
    clear_run,
    data_facts,
    manifest,
    read_beside,
    resume_line,
    write_beside,
)
from tlora_ref.cli.show import Advance, Screen, show_plan, warn
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
from tlora_ref.data.rows import SUFFIXES
from tlora_ref.errors import ConfigError, OutputError
from tlora_ref.training import TrainResult, whole_tensors
from tlora_ref.training.state import STATE_FILE
from tlora_ref.transformer import Model

CONVENTIONS = "AdamW as torch (decoupled decay, bias correction); schedule as transformers (first warm-up step: lr 0)"
START, END = "initial_adapter", "adapter"
#: What a run leaves in its folder, and --overwrite clears.
PARTS = (STATE_FILE, HISTORY_FILE, MANIFEST_FILE, CONFIG_FILE, START, END)
#: Flags that a resumed run may change. The data are compared by digest, not by path.
FREE = frozenset(("out", "data", "valid", "resume", "overwrite", "save-every", "eval-every", "log-every"))


def train(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    out: o.Out,
    config: o.Config = None,
    adapter: Annotated[Path | None, typer.Option(help="Train this adapter instead of making one.")] = None,
    valid: Annotated[Path | None, typer.Option(help="Held-out data; by default the directory's valid split.")] = None,
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
    grad_accumulation: Annotated[int, typer.Option(help="Forward passes of one step.")] = 1,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    schedule: Annotated[str, typer.Option(help="cosine, linear or constant.")] = "cosine",
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.03,
    betas: Annotated[tuple[float, float], typer.Option(help="AdamW's two.", metavar="FLOAT FLOAT")] = (0.9, 0.999),
    eps: Annotated[float, typer.Option(help="AdamW's.")] = 1e-8,
    weight_decay: Annotated[float, typer.Option(help="AdamW's decoupled decay.")] = 0.01,
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip the gradient's norm.")] = None,
    eval_every: Annotated[int | None, typer.Option(min=1, help="Evaluate every so many steps.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Save the state every so many steps.")] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Off a terminal, a line every so many steps.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    task: o.TaskName = None,
    max_length: o.MaxLength = None,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Fine-tune: makes the adapter (or takes one), trains it, writes OUT/adapter, history and manifest."""
    screen, choice, settings = Screen(json), chosen(context, AdapterChoice), _settings(context)
    if resume and overwrite:
        raise ConfigError("--resume continues the run in --out and --overwrite replaces it: give one of the two")
    _only_training(context)
    check_folder(out, overwrite=overwrite or resume, model=model, data=data, valid=valid, adapter=adapter)
    earlier = read_beside(out, context, free=FREE) if resume else None
    source = DataChoice.of(data, field, template, max_length, task)
    rows, held = source.rows(split), _held_out_rows(source, valid)
    start = out / START if resume else adapter
    say_memory(screen, model, None if start else choice, dtype)
    base = tr.load_model(model, dtype, device)
    _say_of_head(base, whole_tensors(base, settings.also))
    tokenizer = tokenizer_for(model, [*rows, *held])
    train_samples = source.encoded(rows, base, tokenizer)[0]
    valid_samples = source.encoded(held, base, tokenizer)[0] if held else []
    try:
        trained, indices = _adapter(screen, base, train_samples, choice, start)
        if trainable is None and not trained.frozen_A:
            settings = _settings(context, trainable="AB")
        if earlier is None:
            earlier = _manifest(context, base, trained, settings, source.file(split), indices)
            _begin_folder(out, context, trained, earlier)
        result, before = _run(screen, base, trained, train_samples, valid_samples, settings, context)
    except KeyboardInterrupt:
        raise typer.Exit(_stopped(out, context, begun=earlier is not None)) from None
    tr.save_peft(trained, out / END, base_model=str(model), facts=earlier, overwrite=True)
    screen.say(f"wrote {out / END}: {trained.trainable_parameters():,} trained parameters")
    screen.finish(_summary(out, trained, result, before))


def _only_training(context: typer.Context) -> None:
    """With --adapter nothing is made: ConfigError for flags that say how, and none of them in config.yaml."""
    if context.params["adapter"] is None:
        return
    making = [f.name for f in fields(AdapterChoice) if f.name != "seed"]
    sources = {name: context.get_parameter_source(name) for name in making}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--adapter brings an adapter that is made already: {flags} would do nothing, leave it out")
    context.meta[UNUSED] = making


def _say_of_head(base: Model, also: list[str]) -> None:
    """A classifier's head stays as it is unless it is asked for: that is said, for a new one holds random numbers."""
    head = [name for name in base.whole_head() if name not in also]
    if head:
        flags = " ".join(f"--also {module}" for module in dict.fromkeys(name.partition(".")[0] for name in head))
        warn(f"the classification head is not trained. To train it beside the adapter: {flags}")


def _settings(context: typer.Context, **changes: Any) -> tr.TrainSettings:
    """The training flags, checked; B alone is trained unless they say otherwise."""
    given = context.params["trainable"]
    if given not in (None, "B", "AB"):
        raise ConfigError(f"--trainable {given}: expected B or AB")
    flags = {"trainable": given or "B", "also": tuple(context.params["also"] or ()), **changes}
    return chosen(context, tr.TrainSettings, **flags)


def _held_out_rows(source: DataChoice, valid: Path | None) -> list[Any]:
    """Held-out rows: of --valid, or of the data directory's valid split if it has one."""
    if valid is not None:
        return replace(source, path=valid).rows("valid")
    has_split = any((source.path / f"valid{suffix}").is_file() for suffix in SUFFIXES)
    return source.rows("valid") if has_split else []


def _adapter(
    screen: Screen, base: Model, samples: list[Sample], choice: AdapterChoice, start: Path | None
) -> tuple[tr.Adapter, list[int] | None]:
    """The adapter that the run starts from: read from `start`, or made."""
    if start is None:
        return make_adapter(screen, base, samples, choice)
    loaded = tr.load_peft(start, str(base.dtype), base.device.name)
    attach(base, loaded)
    if loaded.plan is not None:
        show_plan(screen, loaded.plan)
    return loaded, None


def _manifest(
    context: typer.Context,
    base: Model,
    adapter: tr.Adapter,
    settings: tr.TrainSettings,
    file: Path,
    indices: list[int] | None,
) -> dict[str, Any]:
    """All that decides the run."""
    given = context.params["adapter"]
    return manifest(
        context,
        model=str(context.params["model"]),
        dtype=str(base.dtype),
        device=base.device.name,
        data=data_facts(file),
        adapter=None if given is None else str(given),
        init=adapter.init,
        seed=adapter.seed,
        calibration=indices,
        settings=settings.to_dict(),
        conventions=CONVENTIONS,
        plan=None if adapter.plan is None else adapter.plan.to_dict(),
    )


def _begin_folder(out: Path, context: typer.Context, adapter: tr.Adapter, facts: dict[str, Any]) -> None:
    """OUT with the adapter the run starts from; an earlier run that is overwritten goes first."""
    try:
        clear_run(out, PARTS)
    except OSError as error:
        raise OutputError(f"{out}: cannot be cleared ({error.strerror or error})") from error
    write_beside(out, context, facts)
    tr.save_peft(adapter, out / START, base_model=facts["model"], facts=facts)


class _Reporter:
    """Tells of every step: on the bar of a terminal, or in a line; and in OUT/history.jsonl as it happens."""

    def __init__(self, screen: Screen, progress: Advance, total: int, every: int, history: Path) -> None:
        self.screen, self.progress, self.total, self.every, self.history = screen, progress, total, every, history
        self.clock = time.perf_counter()

    def __call__(self, entry: dict[str, Any]) -> None:
        with self.history.open("a", encoding="utf-8") as file:
            file.write(jsonlib.dumps(entry) + "\n")
        now, step = time.perf_counter(), entry["step"]
        rate = entry["tokens"] / max(1e-9, now - self.clock)
        self.clock = now
        said = f"loss {entry['loss']:.4f}  lr {entry['lr']:.2e}  "
        evaluated = "valid_loss" in entry  # which took time of its own, so that no rate can be told
        said += f"held-out {entry['valid_loss']:.4f}" if evaluated else f"{rate:,.0f} scored tokens/s"
        self.progress(step, self.total, said)
        if evaluated or (not self.screen.rich and (step % self.every == 0 or step in (1, self.total))):
            self.screen.say(f"step {step:>5} of {self.total}  {said}")


def _run(
    screen: Screen,
    base: Model,
    adapter: tr.Adapter,
    data: list[Sample],
    valid: list[Sample],
    settings: tr.TrainSettings,
    context: typer.Context,
) -> tuple[TrainResult, float | None]:
    """Train with progress, and the held-out loss before the first step (None on a resumed run) and after the last."""
    flags = context.params
    out, resume, before = Path(flags["out"]), flags["resume"], None
    total = settings.total_steps(len(data))
    screen.say(f"training {settings.trainable} for {total} steps on {len(data)} samples, {len(valid)} held out")
    if valid and not resume:
        base.attach(adapter)
        before = tr.evaluate(base, valid, batch_size=settings.batch_size).loss
        screen.say(f"held-out loss before: {before:.4f}")
    with screen.progress("training", lines=False) as progress:
        on_step = _Reporter(screen, progress, total, flags["log_every"], out / HISTORY_FILE)
        options = {"eval_every": flags["eval_every"], "save_every": flags["save_every"], "resume": resume}
        result = tr.train(base, adapter, data, settings=settings, valid=valid, out=out, on_step=on_step, **options)
    lines = "".join(jsonlib.dumps(entry) + "\n" for entry in result.history)
    (out / HISTORY_FILE).write_text(lines, encoding="utf-8")  # whole: a run may have been stopped past its last state
    if valid:
        screen.say(f"held-out loss after: {result.history[-1]['valid_loss']:.4f}")
    return result, before


def _summary(out: Path, adapter: tr.Adapter, result: TrainResult, before: float | None) -> dict[str, Any]:
    """The run for a machine."""
    return {
        "out": str(out),
        "steps": result.steps,
        "seconds": result.seconds,
        "trainable_parameters": adapter.trainable_parameters(),
        "valid_loss_before": before,
        "valid_loss_after": result.history[-1].get("valid_loss"),
        "plan": None if adapter.plan is None else adapter.plan.to_dict(),
        "history": result.history,
    }


def _stopped(out: Path, context: typer.Context, *, begun: bool) -> int:
    """Says after Ctrl-C what was kept and how to go on; the exit status."""
    if begun and (out / STATE_FILE).is_file():
        kept = f"the state is in {out / STATE_FILE}. To go on:\n  {resume_line(context)}"
    else:
        kept = "training had not begun, so there is nothing to resume"
    print(f"stopped by Ctrl-C: {kept}", file=sys.stderr)
    return 130
