"""One run: calibrate, allocate, initialise, train, and read the held-out losses."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tlora_ref.adapter import Plan, initialize
from tlora_ref.calibration import CalibrationStats, calibrate
from tlora_ref.checkpoint import load_model
from tlora_ref.data import choose_samples
from tlora_ref.errors import DataError, NumericsError
from tlora_ref.pipeline import load_tokenizer_for
from tlora_ref.provenance import provenance
from tlora_ref.study.declaration import OWN, Cell, Rows, Study
from tlora_ref.study.similarity import phi_draws, phi_root, phi_update
from tlora_ref.study.variants import Variant
from tlora_ref.training import TrainResult, TrainSettings, evaluate, train
from tlora_ref.transformer import Model

SPLITS = ("train", "valid", "test")
#: Samples of one forward pass in evaluation.
EVALUATED_TOGETHER = 32
#: How often a running cell's memory is looked at, in seconds.
LOOK = 0.05

#: Added to a seed for the samples of another draw.
ANOTHER_DRAW = 1000

Samples = dict[str, list[dict[str, Any]]]


#: A process runs one cell at a time, threads of an executor too: they share the model that was read.
_ONE_AT_A_TIME = threading.Lock()


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """One run, by nothing but the study and the cell: what it measured, as JSON values.

    Returns
    -------
    r_init, trained : the rank that was used, and how many parameters it trained
    valid_loss, test_loss : after the last step, nats a scored token; None where the run diverged, and `error` says how
    gradient_norm : of the first step's gradient and the largest
    phi : where A is that of Eq. 4, the mean over modules of Eq. 17 between the directions of W C and of W C^1/2
    phi_draw : where the study names tasks to calibrate on, Eq. 15 between the directions of W C and those of another
        draw of samples of the task that is trained on
    phi_update : where all weights are trained, {kind of module: Eq. 17 between the directions of W_0 C^1/2 and of the
        update's}
    sensitivity, rank_by_module : with `per_module`, {module: S, and the rank}
    seconds, peak_bytes : of calibration with initialisation, and of training; resident memory of the process at most

    Raises
    ------
    CheckpointError, ConfigError, DataError
        for a model, settings or rows that no cell of this kind can run with.
    """
    with _ONE_AT_A_TIME, peak_memory() as peak:
        found = _measured(study, cell, study.variants[cell.variant])
    return {**found, "peak_bytes": peak[0], "provenance": provenance()}


def _measured(study: Study, cell: Cell, variant: Variant) -> dict[str, Any]:
    place = place_of(study, cell)
    model, samples = prepared(*place)
    stats, calibrated = None, 0.0
    if variant.calibrated:
        stats, calibrated = calibration(draw_of(study, cell, variant.profile))
    plan = plan_of(variant, cell, model, stats)
    head = tuple(sorted(model.fresh))
    found: dict[str, Any] = {"r_init": plan.r_init, "trained": _trained(variant, plan, model, head), "phi": None}
    if stats is not None:
        found |= _similarities(study, cell, variant, model, stats, plan)
    try:
        began, adapter = time.perf_counter(), None
        if variant.trained == "all":  # its weights are trained, so it is no one else's
            model = load_model(place[0], dtype=study.dtype, labels=place[1].labels or None, seed=cell.seed)
        else:
            adapter = initialize(model, stats, plan, init=variant.init, seed=cell.seed)
        calibrated += time.perf_counter() - began
        also = () if adapter is None else head
        settings = study.training(cell.lr, cell.seed)
        result = train(model, adapter, samples["train"], settings=settings, trainable=variant.trained, also=also)
        losses = {f"{split}_loss": _loss(model, samples[split]) for split in ("valid", "test")}
    except NumericsError as error:  # a learning rate too large is a result, or a C without C^-1/2
        return {**found, "valid_loss": None, "test_loss": None, "error": str(error)}
    finally:
        model.detach()
    if adapter is None and stats is not None:
        found["phi_update"] = phi_update(prepared(*place)[0], model, stats, plan.r_init)
    seconds = {"calibration": round(calibrated, 3), "training": round(result.seconds, 3)}
    return {**found, **losses, "gradient_norm": _gradient_norms(result), "seconds": seconds}


def _similarities(
    study: Study, cell: Cell, variant: Variant, model: Model, stats: CalibrationStats, plan: Plan
) -> dict[str, Any]:
    """What is told of a calibration beside what it is for."""
    adapted = tuple((module, rank) for module, rank in plan.rank.items() if rank)
    found: dict[str, Any] = {"phi": None}
    if variant.init == "wc-svd":
        found["phi"] = _phi(draw_of(study, cell, variant.profile), adapted)
    if study.calibrated_on != (OWN,):
        another, _ = calibration(another_draw(study, cell, variant.profile))
        found["phi_draw"] = phi_draws(model, stats, another, plan.r_init)
    if study.per_module:
        found |= {"sensitivity": dict(stats.sensitivity), "rank_by_module": dict(plan.rank)}
    return found


def plan_of(variant: Variant, cell: Cell, model: Model, stats: CalibrationStats | None) -> Plan:
    """Ranks and scales at the cell's rank, or at the largest that trains no more than plain LoRA does."""
    shapes = model.shapes()
    sensitivity = dict.fromkeys(shapes, 1.0) if stats is None else stats.sensitivity
    if cell.equal == "parameters" and variant.trained != "all":
        return variant.largest(sensitivity, shapes, cell.rank)
    return variant.allocate(sensitivity, shapes, cell.rank)


def _trained(variant: Variant, plan: Plan, model: Model, head: Sequence[str]) -> int:
    """How many numbers are trained, a fresh head's among them."""
    if variant.trained == "all":
        return sum(int(tensor.size) for tensor in model.tensors.values())
    return variant.parameters(plan) + sum(int(model.tensors[name].size) for name in head)


def _loss(model: Model, samples: Sequence[Mapping[str, Any]]) -> float:
    return evaluate(model, samples, batch_size=EVALUATED_TOGETHER).loss


def _gradient_norms(result: TrainResult) -> dict[str, float]:
    norms = [float(entry["grad_norm"]) for entry in result.history]
    return {"first": norms[0], "largest": max(norms)}


#: Where a task's rows become a model's samples: the model's folder, the rows, the dtype, the seed of a fresh head.
Place = tuple[Path, Rows, str, int]


def place_of(study: Study, cell: Cell) -> Place:
    """The cell's; a model that has its own head is the same for all seeds."""
    rows = study.tasks[cell.task]
    return study.models[cell.model], rows, study.dtype, cell.seed if rows.labels else 0


@lru_cache(maxsize=2)
def prepared(folder: Path, rows: Rows, dtype: str, seed: int) -> tuple[Model, Samples]:
    """A model and the samples of the three splits, read once by a process; DataError where a split is empty."""
    model, source = load_model(folder, dtype=dtype, labels=rows.labels or None, seed=seed), rows.source()
    read = {split: source.rows(split) for split in SPLITS}
    tokenizer = load_tokenizer_for(folder, [row for split in read.values() for row in split])
    samples = {split: source.encoded(read[split], model, tokenizer)[0] for split in SPLITS}
    for split, found in samples.items():
        if not found:
            raise DataError(f"{rows.data}: no row of {split} can be used: a study needs train, valid and test")
    return model, samples


class Draw(NamedTuple):
    """What decides a calibration: where the samples come from, how many, their seed, and the method's profile."""

    place: Place
    samples: int
    seed: int
    profile: str


def draw_of(study: Study, cell: Cell, profile: str) -> Draw:
    """That of the task which the cell is calibrated on."""
    task = cell.task if cell.calibrated_on == OWN else cell.calibrated_on
    return Draw(place_of(study, replace(cell, task=task)), cell.samples, cell.seed, profile)


def another_draw(study: Study, cell: Cell, profile: str) -> Draw:
    """Other samples of the task that the cell is trained on, which `phi_draw` compares with."""
    return draw_of(study, replace(cell, calibrated_on=OWN, seed=cell.seed + ANOTHER_DRAW), profile)


@lru_cache(maxsize=2)
def calibration(draw: Draw) -> tuple[CalibrationStats, float]:
    """Alg. 1, lines 4 to 11, and the seconds that it took: once for all the cells in a row that share it."""
    model, samples = prepared(*draw.place)
    began = time.perf_counter()
    drawn, _ = choose_samples(samples["train"], draw.samples, draw.seed)
    return calibrate(model, drawn, profile=draw.profile), time.perf_counter() - began


@lru_cache(maxsize=4)
def _phi(draw: Draw, ranks: tuple[tuple[str, int], ...]) -> float | None:
    """`phi_root`, once for all the cells in a row that share a calibration and its ranks."""
    return phi_root(prepared(*draw.place)[0], calibration(draw)[0], dict(ranks))


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The largest resident memory of this process while it lasts, bytes, in the list's one entry at the end."""
    process, ended = psutil.Process(), threading.Event()
    peak = [process.memory_info().rss]

    def look() -> None:
        while not ended.wait(LOOK):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def key_of(study: Study, cell: Cell, digests: Mapping[str, str]) -> str:
    """What tells a run from others: all that its result depends on, whatever the study calls it.

    digests : of the files of every model and task, by `digest_of`
    """
    variant, rows = study.variants[cell.variant], study.tasks[cell.task]
    grows_with_rank_alone = variant.trained == "AB" and not variant.adapt_rank  # so it has LoRA's parameters
    depends = {
        "variant": variant.to_dict(),
        "equal": "rank" if grows_with_rank_alone else cell.equal,
        "rank": cell.rank,
        "samples": cell.samples if variant.calibrated else None,
        "training": _chosen(study.training(cell.lr, cell.seed)),
        "dtype": study.dtype,
        "model": digests[cell.model],
        "task": digests[cell.task],
        "rows": [rows.template, rows.max_length, rows.fields],
    }
    if rows.labels:
        depends["labels"] = rows.labels
    if variant.calibrated and study.calibrated_on != (OWN,):
        depends["calibrated_on"] = digests[cell.task if cell.calibrated_on == OWN else cell.calibrated_on]
    if study.per_module:
        depends["per_module"] = True
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def _chosen(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are not the default: a setting that the library learns later leaves old runs what they are."""
    usual = TrainSettings().to_dict()
    return {name: value for name, value in settings.to_dict().items() if value != usual[name]}


def digests_of(study: Study) -> dict[str, str]:
    """{name of a model or task: SHA-256 of the files that decide}."""
    found = {}
    for name, folder in study.models.items():
        found[name] = digest_of([folder / "config.json", folder / "tokenizer.json", *folder.glob("*.safetensors")])
    for name, rows in study.tasks.items():
        found[name] = digest_of([rows.source().file(split) for split in SPLITS])
    return found


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of the files' names and contents, those that are there."""
    found = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        found.update(file.name.encode() + file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                found.update(block)
    return found.hexdigest()
