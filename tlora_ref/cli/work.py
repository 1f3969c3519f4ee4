"""Steps that several commands take: data to samples, calibration to an adapter, manifests."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy

import tlora_ref as tr
from tlora_ref.calibration import CalibrationStats, calibration_memory
from tlora_ref.cli.show import Screen, show_plan, size, warn
from tlora_ref.data import Tokenizer, choose_samples, dataset_file, encode_rows, file_sha256, load_dataset
from tlora_ref.data.rows import Row
from tlora_ref.transformer import Model


@dataclass(frozen=True)
class DataChoice:
    """Where samples come from and how they are made."""

    path: Path
    fields: dict[str, str] | None
    template: str
    max_length: int | None

    def rows(self, split: str) -> list[Row]:
        return load_dataset(self.path, split, self.fields)

    def file(self, split: str) -> Path:
        return dataset_file(self.path, split)

    def samples(self, rows: list[Row], model: Model, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
        """Encoded rows; what is left out is said on standard error."""
        context = getattr(model.config, "max_position_embeddings", None)
        samples, report = encode_rows(
            rows,
            tokenizer,
            template=self.template,
            max_length=self.max_length or context,
            vocab_size=model.config.vocab_size,
        )
        for line in report.lines():
            warn(line)
        return samples


def tokenizer_for(folder: Path, rows: list[Row]) -> Tokenizer | None:
    """The folder's tokenizer, unless all rows are tokens already."""
    return None if all(row.form == "tokens" for row in rows) else tr.load_tokenizer(folder)


@dataclass(frozen=True)
class AdapterChoice:
    """How an adapter is to be made."""

    rank: int
    alpha: float | None
    targets: list[str] | None
    profile: str
    init: str
    samples: int
    seed: int
    uniform_rank: bool
    uniform_scale: bool
    rank_floor: int | None
    redistribute: bool

    def switches(self) -> dict[str, Any]:
        """The switches that were changed by flags."""
        changed: dict[str, Any] = {} if self.rank_floor is None else {"rank_floor": self.rank_floor}
        return changed | ({"redistribute": True} if self.redistribute else {})


def make_adapter(
    screen: Screen,
    model: Model,
    samples: list[dict[str, Any]],
    choice: AdapterChoice,
    stats_file: Path | None = None,
    save_stats: Path | None = None,
) -> tuple[tr.Adapter, list[int]]:
    """Calibrate, allocate, initialise; prints the table. Returns the adapter and the indices of its samples."""
    shapes = model.shapes(choice.targets)
    indices: list[int] = []
    if stats_file is not None:
        stats = CalibrationStats.load(stats_file)
        shapes = stats.shapes
    else:
        chosen, indices = choose_samples(samples, choice.samples, choice.seed)
        need = calibration_memory(model, chosen, choice.targets)
        screen.say(f"calibrating on {len(chosen)} samples; the covariances of {len(shapes)} modules take {size(need)}")
        with screen.progress("calibration") as progress:
            stats = tr.calibrate(model, chosen, choice.targets, profile=choice.profile, progress=progress)
    if save_stats is not None:
        stats.save(save_stats)
    plan = tr.allocate(
        stats.sensitivity,
        shapes,
        choice.rank,
        choice.rank if choice.alpha is None else choice.alpha,
        choice.profile,
        adapt_rank=not choice.uniform_rank,
        adapt_scale=not choice.uniform_scale,
        **choice.switches(),
    )
    show_plan(screen, plan)
    return tr.initialize(model, stats, plan, init=choice.init, seed=choice.seed), indices


def manifest(**facts: Any) -> dict[str, Any]:
    """What is needed to run the same again: the command, the versions, the linear-algebra library, and `facts`."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "command": ["tlora-ref", *sys.argv[1:]],
        "tlora_ref": tr.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "blas": {key: blas.get(key) for key in ("name", "version", "openblas configuration") if key in blas},
        "machine": platform.machine(),
        **facts,
    }


def data_facts(file: Path, indices: list[int] | None = None) -> dict[str, Any]:
    """A data file by name and digest, and the samples taken of it."""
    return {"file": str(file), "sha256": file_sha256(file), **({} if indices is None else {"samples": indices})}
