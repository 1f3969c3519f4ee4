"""Candidates made of a golden trace by changing its tensors; the golden traces they are made of are in conftest.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.oracle.traces import TENSORS
from tlora_ref.training import TrainSettings

Array = np.ndarray
Change = Callable[[dict[str, Array]], Mapping[str, Array]]
MODEL, SAMPLES = tiny_llama(seed=3), tiny_samples(3, seed=4)
EVERYTHING = ("calibration", "allocation", "initialization", "training", "merge", "inputs", "gradients")
SETTINGS = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0, max_grad_norm=0.05)


def changed(golden: Path, folder: Path, change: Change) -> Path:
    """A candidate: the golden trace with its tensors changed."""
    folder.mkdir()
    tensors = {name: np.array(value, order="C") for name, value in change(load_file(golden / TENSORS)).items()}
    save_file(tensors, folder / TENSORS)
    (folder / "manifest.json").write_text((golden / "manifest.json").read_text())
    return folder


def without(pattern: str) -> Change:
    return lambda tensors: {k: v for k, v in tensors.items() if not re.fullmatch(pattern, k)}


def replaced(
    pattern: str, make: Callable[[dict[str, Array], str], Array]
) -> Callable[[dict[str, Array]], dict[str, Array]]:
    return lambda tensors: {k: make(tensors, k) if re.fullmatch(pattern, k) else v for k, v in tensors.items()}


def skipped(report: tr.Report, stage: str) -> str:
    return " ".join(f.why for f in report.of("skip") if f.stage == stage)


def noted(report: tr.Report, stage: str) -> str:
    return " ".join(f.why for f in report.of("note") if f.stage == stage)


def kind(name: str) -> str:
    """A tensor's name without its module."""
    return re.sub(r"/model\..*", "", name)
