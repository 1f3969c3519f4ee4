"""`tlora-ref train`: calibrate, allocate, initialise, train B, keep everything."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import tlora_ref as tr
from tlora_ref.checkpoint import check_output
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen, show_plan
from tlora_ref.cli.work import AdapterChoice, DataChoice, data_facts, make_adapter, manifest, tokenizer_for
from tlora_ref.errors import OutputError

CONVENTIONS = "AdamW as torch (decoupled decay, bias correction); schedule as transformers (first warm-up step: lr 0)"


def train(
    context: typer.Context,
    model: o.ModelFolder,
    data: o.Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for adapter, history, manifest.", show_default=False)],
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
    rank_floor: o.RankFloor = None,
    redistribute: o.Redistribute = False,
    trainable: Annotated[
        str | None, typer.Option(help="B or AB; by default B where the adapter's A is frozen (profile paper), else AB.")
    ] = None,
    also: Annotated[list[str] | None, typer.Option(help="A whole tensor to train beside the adapter.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; overrides --epochs.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Samples of one forward pass.")] = 8,
    grad_accumulation: Annotated[int, typer.Option(help="Forward passes of one step.")] = 1,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    schedule: Annotated[str, typer.Option(help="cosine, linear or constant.")] = "cosine",
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.03,
    weight_decay: Annotated[float, typer.Option(help="AdamW's decoupled decay.")] = 0.01,
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip the gradient's norm.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Evaluate every so many steps.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Save the state every so many steps.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    split: o.Split = "train",
    field: o.Fields = None,
    template: o.Template = "plain",
    max_length: o.MaxLength = None,
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Fine-tune: makes the adapter (or takes one), trains it, writes OUT/adapter, history and manifest."""
    screen = Screen(json)
    check_output(out, overwrite=overwrite or resume)
    settings = tr.TrainSettings(
        trainable=trainable or "B",
        also=tuple(also or ()),
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        grad_accumulation=grad_accumulation,
        lr=lr,
        schedule=schedule,
        warmup_ratio=warmup_ratio,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
    )
    source = DataChoice(data, o.pairs(field), template, max_length)
    rows = source.rows(split)
    base = tr.load_model(model, dtype, device)
    tokenizer = tokenizer_for(model, rows)
    train_samples = source.samples(rows, base, tokenizer)
    valid_samples = _held_out(source, valid, base, tokenizer)
    choice = AdapterChoice(
        rank, alpha, target, profile, init, samples, seed, uniform_rank, uniform_scale, rank_floor, redistribute
    )
    trained, indices = _adapter(screen, base, train_samples, choice, out, adapter, resume, dtype, device)
    if trainable is None and not trained.frozen_A:
        settings = replace(settings, trainable="AB")
    facts = manifest(
        data=data_facts(source.file(split)),
        calibration=indices,
        model=str(model),
        dtype=dtype,
        settings=settings.to_dict(),
        conventions=CONVENTIONS,
        plan=None if trained.plan is None else trained.plan.to_dict(),
    )
    _start_folder(out, context.params, facts)
    if not (resume and (out / "initial_adapter").is_dir()):
        tr.save_peft(trained, out / "initial_adapter", base_model=str(model), facts=facts, overwrite=True)
    options = {"eval_every": eval_every, "save_every": save_every, "resume": resume}
    result = _run(screen, base, trained, train_samples, settings, out, valid_samples, **options)
    tr.save_peft(trained, out / "adapter", base_model=str(model), facts=facts, overwrite=True)
    screen.say(f"wrote {out / 'adapter'}: {trained.trainable_parameters():,} trained parameters")
    screen.finish({"out": str(out), "steps": result.steps, "history": result.history})


def _held_out(source: DataChoice, valid: Path | None, base: Any, tokenizer: Any) -> list[dict[str, Any]] | None:
    """Held-out samples: of --valid, or of the data directory's valid split if it has one."""
    if valid is not None:
        source = DataChoice(valid, source.fields, source.template, source.max_length)
    elif not any((source.path / f"valid{suffix}").is_file() for suffix in (".jsonl", ".json")):
        return None
    return source.samples(source.rows("valid"), base, tokenizer)


def _adapter(
    screen: Screen,
    base: Any,
    train_samples: list[dict[str, Any]],
    choice: AdapterChoice,
    out: Path,
    adapter: Path | None,
    resume: bool,
    dtype: str,
    device: str,
) -> tuple[tr.Adapter, list[int]]:
    """The adapter that the run starts from: of the run that is resumed, given, or made."""
    given = out / "initial_adapter" if resume else adapter
    if given is None:
        return make_adapter(screen, base, train_samples, choice)
    loaded = tr.load_peft(given, dtype, device)
    if loaded.plan is not None:
        show_plan(screen, loaded.plan)
    return loaded, []


def _start_folder(out: Path, flags: dict[str, Any], facts: dict[str, Any]) -> None:
    """The resolved flags and the manifest, beside the results."""
    resolved = {k.replace("_", "-"): v for k, v in flags.items() if v is not None and k not in ("config", "json")}
    plain = {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in resolved.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
        (out / "manifest.json").write_text(jsonlib.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error})") from error


class _Reporter:
    """Prints training as it goes: a bar on a terminal, and a line every twentieth of the run."""

    def __init__(self, screen: Screen, progress: Callable[[int, int], None], total: int) -> None:
        self.screen, self.progress, self.total = screen, progress, total
        self.clock = time.perf_counter()

    def __call__(self, entry: dict[str, Any]) -> None:
        now, before = time.perf_counter(), self.clock
        self.clock, step = now, entry["step"]
        if self.screen.rich:
            self.progress(step, self.total)
        if step % max(1, self.total // 20) == 0 or step in (1, self.total) or "valid_loss" in entry:
            held = f"  held-out {entry['valid_loss']:.4f}" if "valid_loss" in entry else ""
            rate = entry["tokens"] / max(1e-9, now - before)
            self.screen.say(
                f"step {step:>5} of {self.total}  loss {entry['loss']:.4f}  lr {entry['lr']:.2e}  "
                f"{rate:,.0f} scored tokens/s{held}"
            )


def _run(
    screen: Screen,
    base: Any,
    adapter: tr.Adapter,
    data: list[dict[str, Any]],
    settings: tr.TrainSettings,
    out: Path,
    valid: list[dict[str, Any]] | None,
    **options: Any,
) -> Any:
    """Train with progress, held-out loss before and after, history written beside."""
    if valid and not options["resume"]:
        screen.say(f"held-out loss before: {tr.evaluate(base, valid, batch_size=settings.batch_size).loss:.4f}")
    with screen.progress("training") as progress:
        reporter = _Reporter(screen, progress, settings.total_steps(len(data)))
        result = tr.train(base, adapter, data, settings=settings, valid=valid, out=out, on_step=reporter, **options)
    lines = "".join(jsonlib.dumps(entry) + "\n" for entry in result.history)
    (out / "history.jsonl").write_text(lines, encoding="utf-8")
    if valid:
        screen.say(f"held-out loss after: {result.history[-1]['valid_loss']:.4f}")
    return result
