"""What a step of training would have given if its batch, or its loss over the batch, were another.

Told by the model run again at the candidate's own A, B and scales: a pass or a few for each, made when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.traces.replay import batch_of

Batch = Mapping[str, Any]
#: The gradients, by letter and module, and the loss of a step.
Passed = tuple[Mapping[tuple[str, str], Array], float]
#: What looks like it, and the pass that shows it.
Other = tuple[str, Callable[[], Passed]]

IGNORED = -100


def other_batches(
    batch: Batch, step: int, golden: Trace, run: Callable[[Batch], Passed], *, causal: bool
) -> list[Other]:
    """The known slips of a step's batch, each with its pass.

    batch : {name: (rows, T)}: what the step was made on
    run : the gradients and the loss of a batch
    causal : whether the labels are those of the inputs, shifted by one inside
    """
    others = [*(_of_labels(batch) if causal else []), *_of_rows(batch)]
    for text, t in (
        ("every step is made on the first batch", 1),
        ("it is made on the batch of the step before", step - 1),
        ("it is made on the batch of the step after", step + 1),
    ):
        if t != step and golden.has(f"train/{t}/input_ids") and golden.has(f"train/{t}/labels"):
            others.append((text, batch_of(golden, t)))
    passes: list[Other] = [
        (text, lru_cache(maxsize=1)(lambda other=other: run(other)))
        for text, other in others
        if _is_scored(other, causal)
    ]
    rows = [row for n in range(len(batch["input_ids"])) if _is_scored(row := _rows(batch, slice(n, n + 1)), causal)]
    if len(rows) > 1:
        passes.append(("it is the mean of the samples' means", lru_cache(maxsize=1)(lambda: _means(rows, run))))
    return passes


def _rows(batch: Batch, which: slice) -> Batch:
    return {name: x[which] for name, x in batch.items()}


def _is_scored(batch: Batch, causal: bool) -> bool:
    """Whether there is a label that a loss can be taken of."""
    labels = np.asarray(batch["labels"])
    return bool(((labels[:, 1:] if causal else labels) != IGNORED).any())


def _of_labels(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Other tokens scored, of a causal model."""
    ids, labels = np.asarray(batch["input_ids"]), np.asarray(batch["labels"])
    there = np.asarray(batch.get("attention_mask", np.ones_like(ids))) != 0
    nothing = np.full_like(labels[:, :1], IGNORED)
    made = {
        "the prompt is scored too": np.where(there, ids, IGNORED),
        "padding is scored too": np.where(there, labels, ids),
        "labels are not shifted: logits at t score labels at t": np.concatenate([nothing, labels[:, :-1]], axis=1),
        "labels are shifted twice: logits at t score labels at t + 2": np.concatenate([labels[:, 1:], nothing], axis=1),
    }
    for text, other in made.items():
        if (other != labels).any():
            yield text, {**batch, "labels": other}
    if not there.all():
        yield (
            "padding is seen: the attention mask is left out",
            {k: v for k, v in batch.items() if k != "attention_mask"},
        )


def _of_rows(batch: Batch) -> list[tuple[str, Batch]]:
    """Some of the rows alone."""
    rows = len(batch["input_ids"])
    some = {
        "the first half of the batch alone is used": slice(rows // 2),
        "the second half of the batch alone is used": slice(rows // 2, None),
        "the last sample of the batch is left out": slice(rows - 1),
        "the first sample of the batch is left out": slice(1, None),
    }
    return [(text, _rows(batch, which)) for text, which in some.items() if rows > 1]


def _means(rows: Sequence[Batch], run: Callable[[Batch], Passed]) -> Passed:
    """The mean over the rows of each row's own pass: what tokens of short samples weigh more in."""
    passed = [run(row) for row in rows]
    gradients = {key: np.mean([g[key] for g, _ in passed], axis=0) for key in passed[0][0]}
    return gradients, float(np.mean([loss for _, loss in passed]))
