"""What the chapters share: the shipped model with its task, and a check that the text states what the run computes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tlora_ref as tr
from tlora_ref.data import choose_samples, encode_rows, load_dataset
from tlora_ref.transformer import Model

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-math-llama"
RANK = 8


def stated(number: str, value: float) -> None:
    """Checks a number of the text: `value`, rounded to as many digits as `number` has, is `number`."""
    digits = len(number.partition(".")[2])
    rounded = f"{value:.{digits}f}"
    print(f"{number} in the text; computed {value:.{digits + 3}f}")
    assert rounded == number, f"the text says {number}, this run {rounded}"


def encoded(split: str) -> list[dict[str, Any]]:
    """The shipped task's rows as samples: token ids, and labels on the response alone."""
    return encode_rows(load_dataset(MODEL / "task", split), tr.load_tokenizer(MODEL), max_length=256)[0]


@cache
def shipped() -> tuple[Model, list[dict[str, Any]]]:
    """The shipped model in float64, and 32 calibration samples of its task."""
    return tr.load_model(MODEL, dtype="float64"), choose_samples(encoded("train"), 32, seed=42)[0]


def inputs_of(model: Model, module: str, samples: list[dict[str, Any]]) -> list[np.ndarray]:
    """X_n of one module, (T_n, d_in) each."""
    X: list[np.ndarray] = []
    view = model.watching([]).observing(lambda name, x: X.append(x[0].copy()) if name == module else None)
    for sample in samples:
        view(**sample)
    return X
