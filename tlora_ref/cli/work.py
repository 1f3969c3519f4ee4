"""Steps that several commands take: flags to settings, data to samples, calibration to an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import typer

import tlora_ref as tr
from tlora_ref.adapter import INITS
from tlora_ref.calibration import CalibrationStats
from tlora_ref.checkpoint import read_config
from tlora_ref.cli import options as o
from tlora_ref.cli.planning import counted, footprint, shared_inputs
from tlora_ref.cli.show import Screen, linear_algebra_line, show_plan, size, warn
from tlora_ref.data import (
    EncodingReport,
    Row,
    Task,
    Tokenizer,
    choose_samples,
    dataset_file,
    encode_rows,
    load_dataset,
    load_task,
    task_rows,
)
from tlora_ref.data.templates import CHAT, check_template
from tlora_ref.errors import ConfigError
from tlora_ref.machine import prepare
from tlora_ref.method.switches import Switches, resolve
from tlora_ref.transformer import Model

Sample = dict[str, Any]
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
T = TypeVar("T")


def chosen(context: typer.Context, kind: type[T], **changes: Any) -> T:
    """A dataclass filled from this command's flags of the same names, with `changes` made."""
    flags = {f.name: context.params[f.name] for f in fields(kind) if f.name in context.params}  # type: ignore[arg-type]
    return kind(**{**flags, **changes})


@dataclass(frozen=True)
class DataChoice:
    """Where samples come from and how they are made."""

    path: Path
    fields: dict[str, str]
    template: str
    max_length: int | None
    task: Task | None = None

    @staticmethod
    def of(
        path: Path, field: list[str] | None, template: str, max_length: int | None, task: str | None = None
    ) -> DataChoice:
        """From the data flags, checked."""
        if task is not None and (field or template not in ("plain", CHAT)):
            raise ConfigError(
                "--task says how rows are read and prompts made: leave --field and --template (but chat) out"
            )
        found = None if task is None else load_task(task)
        return DataChoice(path, o.pairs("--field", field), check_template(template), max_length, found)

    def rows(self, split: str) -> list[Row]:
        if self.task is not None:
            return task_rows(self.task, self.path, split)
        return load_dataset(self.path, split, self.fields)

    def file(self, split: str) -> Path:
        return dataset_file(self.path, split)

    def encoded(
        self, rows: list[Row], model: Model, tokenizer: Tokenizer | None
    ) -> tuple[list[Sample], EncodingReport]:
        """Encoded rows, and what was left out, which is said on standard error too."""
        samples, report = encode_rows(
            rows,
            tokenizer,
            template=self.template,
            max_length=self.max_length or model.context,
            vocab_size=model.config.vocab_size,
            form=sample_form(model),
            class_names=getattr(model.config, "labels", ()),
        )
        for line in report.lines():
            warn(line)
        return samples, report


def tokenizer_for(folder: Path, rows: list[Row]) -> Tokenizer | None:
    """The folder's tokenizer, unless all rows are tokens already."""
    return None if all(row.form == "tokens" for row in rows) else tr.load_tokenizer(folder)


def sample_form(model: Model) -> str:
    """What the model makes of a row, as `encode_rows` calls it; ConfigError for a model that has no loss."""
    forms = {"SEQ_CLS": "classes", "SEQ_2_SEQ_LM": "seq2seq", "CAUSAL_LM": "causal"}
    if model.task_type not in forms:
        raise ConfigError(
            f"this {model.config.model_type} checkpoint is a bare encoder: without a head there is no loss to "
            "calibrate or train on. Give it one with transformers: AutoModelForSequenceClassification.from_pretrained("
            "MODEL, num_labels=...).save_pretrained(FOLDER)"
        )
    return forms[model.task_type]


def attach(model: Model, adapter: tr.Adapter) -> None:
    """`adapter` on `model`, with a warning where it was made for another."""
    model.attach(adapter)
    if adapter.model not in (None, model.digest()):
        warn("this adapter was made for other weights: its A was chosen for them, and its B trained on them")


def switches_of(profile: str, switch: list[str] | None) -> Switches:
    """The profile, with the switches that `--switch name=value` changed."""
    changes: dict[str, Any] = {}
    for name, text in o.pairs("--switch", switch).items():
        whole = int(text) if text.isdecimal() else text
        changes[name.replace("-", "_")] = {"true": True, "false": False}.get(text.lower(), whole)
    return resolve(profile, **changes)


@dataclass(frozen=True)
class AdapterChoice:
    """How an adapter is to be made: the fields are the flags. A bad one is refused before any work."""

    rank: int
    alpha: float | None
    target: list[str] | None
    profile: str
    init: str
    samples: int
    seed: int
    uniform_rank: bool
    uniform_scale: bool
    scale_rule: str
    rank_floor: int | None
    redistribute: bool
    switch: list[str] | None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ConfigError(f"--init {self.init}: expected one of {', '.join(INITS)}")
        one = {"one": 1.0}  # the settings, tried on a model of one module
        self.allocate(one, {"one": (self.rank, self.rank)})

    def switches(self) -> Switches:
        """The profile, with the switches that flags changed."""
        changes: dict[str, Any] = {}
        if self.rank_floor is not None:
            changes["rank_floor"] = self.rank_floor
        if self.redistribute:
            changes["redistribute"] = True
        return resolve(switches_of(self.profile, self.switch), **changes)

    def allocate(self, sensitivity: dict[str, float], shapes: dict[str, tuple[int, int]]) -> tr.Plan:
        """Alg. 1, lines 12 to 15, under these settings."""
        return tr.allocate(
            sensitivity,
            shapes,
            self.rank,
            self.rank if self.alpha is None else self.alpha,
            self.switches(),
            adapt_rank=not self.uniform_rank,
            adapt_scale=not self.uniform_scale,
            uniform_scale=self.scale_rule,
        )


def say_memory(screen: Screen, folder: Path, choice: AdapterChoice | None, dtype: str) -> None:
    """What the command will need, said before anything large is read."""
    settings, family = read_config(folder)
    shapes = family.target_shapes(settings, choice.target or None if choice else None)
    counts = counted(family, settings, shapes, choice.rank if choice else 1)
    need = footprint(counts, shapes, shared_inputs(family, settings, shapes), dtype)
    said = f"{settings.model_type}: {counts['weights']:,} weights take {size(need['weights'])} in {dtype}"
    if choice is not None:
        held = 2 * need["covariances"]
        said += f"; covariances of {len(shapes)} modules {size(held)}, adapter {size(need['adapter'])}"
    screen.say(said)
    screen.say(f"linear algebra: {linear_algebra_line()}")


@contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """An executor of that many processes, which share the cores among them; None for one."""
    if workers == 1:
        yield None
        return
    share = str(max(1, (os.cpu_count() or 1) // workers))
    unset = [name for name in BLAS_THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, share))  # read by the processes when they start
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare) as executor:
            yield executor
    finally:
        for name in unset:
            del os.environ[name]


def make_adapter(
    screen: Screen,
    model: Model,
    samples: list[Sample],
    choice: AdapterChoice,
    stats_file: Path | None = None,
    save_stats: Path | None = None,
    workers: int = 1,
) -> tuple[tr.Adapter, list[int] | None]:
    """Calibrate (or read statistics), allocate, initialise; prints the table.

    Returns the adapter and the indices of the samples that calibrated it (None for statistics from a file).
    """
    shapes = model.shapes(choice.target or None)
    indices: list[int] | None = None
    if stats_file is not None:
        stats = CalibrationStats.load(stats_file)
        _check_stats(stats, stats_file, shapes)
        screen.say(f"statistics of {stats.samples} samples from {stats_file}")
    else:
        calibrating, indices = choose_samples(samples, choice.samples, choice.seed)
        targets, rules = choice.target or None, choice.switches()
        with screen.progress(f"calibrating on {len(calibrating)} samples") as progress, processes(workers) as executor:
            stats = tr.calibrate(model, calibrating, targets, profile=rules, executor=executor, progress=progress)
    if save_stats is not None:
        stats.save(save_stats)
        screen.say(f"wrote {save_stats}")
    plan = choice.allocate({module: stats.sensitivity[module] for module in shapes}, shapes)
    show_plan(screen, plan)
    return tr.initialize(model, stats, plan, init=choice.init, seed=choice.seed), indices


def _check_stats(stats: CalibrationStats, file: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """The statistics are of this model's modules."""
    for module, shape in shapes.items():
        found = stats.shapes.get(module)
        if found != shape:
            said = "it holds no statistics" if found is None else f"its statistics are {found}, the model {shape}"
            raise ConfigError(
                f"{file}: {said} of {module}: was it made with another model, or other targets? Calibrate again, or "
                "narrow --target"
            )
