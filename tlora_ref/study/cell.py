"""One run: calibrate, allocate, initialise, train, and read the held-out losses."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tlora_ref.adapter import Adapter, Plan, initialize
from tlora_ref.calibration import CalibrationStats, calibrate
from tlora_ref.checkpoint import load_model
from tlora_ref.data import choose_samples
from tlora_ref.errors import DataError, NumericsError
from tlora_ref.method.initialization import wc_svd
from tlora_ref.method.theory import optimal_directions, subspace_similarity
from tlora_ref.pipeline import load_tokenizer_for
from tlora_ref.provenance import provenance
from tlora_ref.study.declaration import Cell, Rows, Study
from tlora_ref.study.variants import Variant
from tlora_ref.training import TrainResult, TrainSettings, evaluate, train
from tlora_ref.transformer import Model

SPLITS = ("train", "valid", "test")
#: Samples of one forward pass in evaluation.
EVALUATED_TOGETHER = 32
#: How often a running cell's memory is looked at, in seconds.
LOOK = 0.05

Samples = dict[str, list[dict[str, Any]]]


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """One run, by nothing but the study and the cell: what it measured, as JSON values.

    Returns
    -------
    r_init, trained : the rank that was used, and how many parameters it trained
    valid_loss, test_loss : after the last step, nats a scored token; None where the run diverged, and `error` says how
    gradient_norm : of the first step's gradient and the largest
    phi : where A is that of Eq. 4, the mean over modules of Eq. 17 between the directions of W C and of W C^1/2
    seconds, peak_bytes : of calibration with initialisation, and of training; resident memory of the process at most

    Raises
    ------
    CheckpointError, ConfigError, DataError
        for a model, settings or rows that no cell of this kind can run with.
    """
    variant = study.variants[cell.variant]
    model, samples = prepared(study.models[cell.model], study.tasks[cell.task], study.dtype)
    with peak_memory() as peak:
        try:
            found = _measured(study, cell, variant, model, samples)
        finally:
            model.detach()
    return {**found, "peak_bytes": peak[0], "provenance": provenance()}


def _measured(study: Study, cell: Cell, variant: Variant, model: Model, samples: Samples) -> dict[str, Any]:
    stats, calibrated = None, 0.0
    if variant.calibrated:
        place = (study.models[cell.model], study.tasks[cell.task], study.dtype)
        stats, calibrated = calibration(*place, cell.samples, cell.seed, variant.profile)
    began = time.perf_counter()
    plan = plan_of(variant, cell, model, stats)
    adapter = initialize(model, stats, plan, init=variant.init, seed=cell.seed)
    calibrated += time.perf_counter() - began
    similarity = phi(model, stats, adapter) if stats is not None and variant.init == "wc-svd" else None
    found = {"r_init": plan.r_init, "trained": variant.parameters(plan), "phi": similarity}
    settings = study.training(cell.lr, cell.seed)
    try:
        result = train(model, adapter, samples["train"], settings=settings, trainable=variant.trained)
        losses = {f"{split}_loss": _loss(model, samples[split]) for split in ("valid", "test")}
    except NumericsError as error:  # a learning rate too large is a result
        return {**found, "valid_loss": None, "test_loss": None, "error": str(error)}
    seconds = {"calibration": round(calibrated, 3), "training": round(result.seconds, 3)}
    return {**found, **losses, "gradient_norm": _gradient_norms(result), "seconds": seconds}


def plan_of(variant: Variant, cell: Cell, model: Model, stats: CalibrationStats | None) -> Plan:
    """Ranks and scales at the cell's rank, or at the largest that trains no more than plain LoRA does."""
    shapes = model.shapes()
    sensitivity = dict.fromkeys(shapes, 1.0) if stats is None else stats.sensitivity
    if cell.equal == "parameters":
        return variant.largest(sensitivity, shapes, cell.rank)
    return variant.allocate(sensitivity, shapes, cell.rank)


def _loss(model: Model, samples: Sequence[Mapping[str, Any]]) -> float:
    return evaluate(model, samples, batch_size=EVALUATED_TOGETHER).loss


def _gradient_norms(result: TrainResult) -> dict[str, float]:
    norms = [float(entry["grad_norm"]) for entry in result.history]
    return {"first": norms[0], "largest": max(norms)}


def phi(model: Model, stats: CalibrationStats, adapter: Adapter) -> float | None:
    """Eq. 17, the mean over the modules: the top directions of W C against those of W C^1/2.

    None where a C has no square root: from few tokens, rounding makes eigenvalues negative.
    """
    found = []
    for module, A in adapter.A.items():
        W, C = np.asarray(model.weight(module), dtype=float), np.asarray(stats.covariance[module], dtype=float)
        r = min(len(A), *W.shape)
        try:
            found.append(subspace_similarity(wc_svd(W, C, r)[0].T, optimal_directions(W, C, r).T))
        except NumericsError:
            return None
    return math.fsum(found) / len(found)


@lru_cache(maxsize=2)
def prepared(folder: Path, rows: Rows, dtype: str) -> tuple[Model, Samples]:
    """A model and the samples of the three splits, read once by a process; DataError where a split is empty."""
    model, source = load_model(folder, dtype=dtype), rows.source()
    read = {split: source.rows(split) for split in SPLITS}
    tokenizer = load_tokenizer_for(folder, [row for split in read.values() for row in split])
    samples = {split: source.encoded(read[split], model, tokenizer)[0] for split in SPLITS}
    for split, found in samples.items():
        if not found:
            raise DataError(f"{rows.data}: no row of {split} can be used: a study needs train, valid and test")
    return model, samples


@lru_cache(maxsize=1)
def calibration(
    folder: Path, rows: Rows, dtype: str, samples: int, seed: int, profile: str
) -> tuple[CalibrationStats, float]:
    """Alg. 1, lines 4 to 11, and the seconds that it took: once for all the cells in a row that share it."""
    model, split = prepared(folder, rows, dtype)
    began = time.perf_counter()
    drawn, _ = choose_samples(split["train"], samples, seed)
    return calibrate(model, drawn, profile=profile), time.perf_counter() - began


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
    variant = study.variants[cell.variant]
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
        "rows": [study.tasks[cell.task].template, study.tasks[cell.task].max_length, study.tasks[cell.task].fields],
    }
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
