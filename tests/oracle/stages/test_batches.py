"""Gradients of another batch, or of another loss over it, are told by the model run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, Array, changed
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.batches import other_batches
from tlora_ref.oracle.traces import Trace
from tlora_ref.oracle.traces.replay import Replay, batch_of

Batch = dict[str, Any]


def labelled(change: Callable[[Batch], Array]) -> Callable[[Batch], Batch]:
    return lambda batch: {**batch, "labels": change(batch)}


def of_rows(which: slice) -> Callable[[Batch], Batch]:
    return lambda batch: {name: x[which] for name, x in batch.items()}


def one_later(batch: Batch) -> Array:
    """Labels that the shift inside puts where they are."""
    labels = np.full_like(batch["labels"], -100)
    labels[:, 1:] = batch["labels"][:, :-1]
    return labels


def prompts_too(batch: Batch) -> Array:
    labels = batch["input_ids"].copy()
    labels[batch["attention_mask"] == 0] = -100
    return labels


MISTAKES: dict[str, Callable[[Batch], Batch]] = {
    "the prompt is scored too": labelled(prompts_too),
    "padding is scored too": labelled(lambda b: np.where(b["attention_mask"] == 0, b["input_ids"], b["labels"])),
    "labels are not shifted: logits at t score labels at t": labelled(one_later),
    "the first half of the batch alone is used": of_rows(slice(0, 1)),
    "the second half of the batch alone is used": of_rows(slice(1, 2)),
}


@pytest.mark.parametrize("cause", MISTAKES)
@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_what_the_first_wrong_step_was_made_on(golden: Path, tmp_path: Path, cause: str, precision: str) -> None:
    """In bfloat16 the arrays are those of a run without noise, rounded: what hides a cause is the bounds."""
    trace, replay = Trace(golden), Replay(MODEL, Trace(golden))
    modules = [m for m in trace.shapes if trace.has(f"A/{m}")]
    A = {m: trace.get(f"A/{m}") for m in modules}
    scale = {m: float(trace.get(f"scale/{m}")) for m in modules}
    B = {m: np.zeros((trace.shapes[m][0], len(A[m]))) for m in modules}
    wrong, loss = replay.step(MISTAKES[cause](batch_of(trace, 1)), A, B, scale, letters="B")
    rounded = Precision.of(precision).rounded

    def spoilt(tensors: dict[str, Array]) -> dict[str, Array]:
        losses = np.array([loss, tensors["train/loss"][1]])
        made = {f"train/1/grad_B/{m}": rounded(wrong["B", m]) for m in modules}
        return {k: v for k, v in tensors.items() if "/grad_A/" not in k} | made | {"train/loss": losses}

    candidate = changed(golden, tmp_path / "c", spoilt)
    report = tr.compare(golden, candidate, checkpoint=MODEL, dtype=precision)
    assert report.first_failing == "gradient"
    said = report.cause_of("gradient") or ""
    assert cause in said and said.count(";") <= 1, said


def test_each_slip_is_another_batch() -> None:
    """Two rows of four tokens, the second padded; a pass is the sum of what is scored, and the number of rows."""
    ids = np.array([[5, 6, 7, 8], [1, 2, 3, 0]])
    batch = {
        "input_ids": ids,
        "labels": np.array([[-100, 6, 7, 8], [-100, -100, 3, -100]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    steps = {f"train/{t}/{name}": x + t for t in (1, 2) for name, x in batch.items()}

    class Golden(dict[str, Any]):
        has, get = dict.__contains__, dict.__getitem__

    def run(given: Any) -> tuple[dict[tuple[str, str], Array], float]:
        labels = given["labels"]
        seen = given.get("attention_mask", np.ones_like(given["input_ids"])).sum()
        return {("B", "m"): np.array([labels[labels != -100].sum(), seen])}, float(len(labels))

    def told(causal: bool, step: int = 2, **given: Any) -> dict[str, tuple[list[int], float]]:
        made = other_batches({**batch, **given}, step, Golden(steps), run, causal=causal)
        return {text: (give()[0]["B", "m"].tolist(), give()[1]) for text, give in made}

    rows = {
        "the first half of the batch alone is used": ([21, 4], 1.0),
        "the second half of the batch alone is used": ([3, 3], 1.0),
        "the last sample of the batch is left out": ([21, 4], 1.0),
        "the first sample of the batch is left out": ([3, 3], 1.0),
    }
    of_step_1 = [int(x) for x in (sum((7, 8, 9, 4)) - 99 * 4, 7 + 8)]
    others = {
        "every step is made on the first batch": (of_step_1, 2.0),
        "it is made on the batch of the step before": (of_step_1, 2.0),
        "it is the mean of the samples' means": ([12, 3.5], 1.0),
    }
    assert told(causal=False) == rows | others
    assert told(causal=True) == rows | others | {
        "the prompt is scored too": ([26 + 6, 7], 2.0),
        "padding is scored too": ([24, 7], 2.0),
        "labels are not shifted: logits at t score labels at t": ([6 + 7 + 3, 7], 2.0),
        "labels are shifted twice: logits at t score labels at t + 2": ([24, 7], 2.0),
        "padding is seen: the attention mask is left out": ([24, 8], 2.0),
    }
    at_1 = told(causal=False, step=1)
    assert [text for text in at_1 if "step" in text] == ["it is made on the batch of the step after"]
    whole = {name: x[:1] for name, x in batch.items()}
    assert [text for text in told(causal=True, step=9, **whole) if "batch" in text] == [
        "every step is made on the first batch"
    ]
    # a row of which nothing is scored has no loss: nor has one whose first label alone is, which the shift leaves out
    unscored = {"labels": np.array([[-100, 6, 7, 8], [1, -100, -100, -100]])}
    of_one = told(causal=True, **unscored)
    assert not any("second half" in text or "first sample" in text or "means" in text for text in of_one)
    assert any("first half" in text for text in of_one)
    assert any("second half" in text for text in told(causal=False, **unscored))
    classes = told(causal=False, labels=np.array([1, 0]))
    assert classes["the second half of the batch alone is used"] == ([0, 3], 1.0)
