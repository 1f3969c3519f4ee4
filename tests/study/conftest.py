"""A tiny model with data, and a study of two cells of two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples

GRID: dict[str, Any] = {
    "title": "two runs",
    "models": {"tiny": "model"},
    "tasks": {"words": "data"},
    "variants": ["LoRA", "TLoRA"],
    "ranks": [2],
    "samples": [6],
    "learning_rates": ["1e-2"],
    "seeds": [1],
    "steps": 2,
    "batch_size": 2,
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `model`, `data` and `study.yaml`."""
    tr.save_model(tiny_llama(), tmp_path / "model")
    (tmp_path / "data").mkdir()
    for split, n in (("train", 9), ("valid", 2), ("test", 3)):
        lines = [json.dumps(sample) for sample in tiny_samples(n, seed=len(split))]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    declare(tmp_path)
    return tmp_path


def declare(place: Path, **changes: Any) -> Path:
    """`study.yaml` with some keys changed."""
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump({**GRID, **changes}), encoding="utf-8")
    return file
