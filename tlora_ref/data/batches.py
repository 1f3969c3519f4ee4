"""Which samples calibrate, in which order samples train, and how a batch is padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.data.lengths import IGNORED
from tlora_ref.errors import DataError

T = TypeVar("T")

#: Batches among whose samples those of like length are put together.
TOGETHER = 50
#: Tokens (padding counted) from which two halves side by side are faster than the whole.
HALVED_TOKENS = 512


def choose_samples(samples: Sequence[T], n: int, seed: int = 42) -> tuple[list[T], list[int]]:
    """`n` samples drawn without replacement by `seed`, in dataset order, and their indices (for the manifest)."""
    if not 1 <= n <= len(samples):
        raise DataError(f"{n} samples were asked for, but there are {len(samples)}: ask for 1 to {len(samples)}")
    indices = sorted(int(i) for i in np.random.default_rng(seed).choice(len(samples), size=n, replace=False))
    return [samples[i] for i in indices], indices


def batches(
    samples: Sequence[T], batch_size: int, *, seed: int, epoch: int = 0, lengths: Sequence[int] | None = None
) -> Iterator[list[T]]:
    """The batches of an epoch, shuffled by (seed, epoch) alone: any epoch can be had without those before it.

    lengths : of each sample; then samples of like length come together, for less padding: the shuffled samples are
        sorted within stretches of TOGETHER batches, and the batches shuffled
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(samples))
    if lengths is not None:
        stretch = TOGETHER * batch_size
        parts = (order[start : start + stretch] for start in range(0, len(order), stretch))
        order = np.concatenate([part[np.argsort(-np.asarray(lengths)[part], kind="stable")] for part in parts])
    starts = np.arange(0, len(samples), batch_size)
    for start in starts if lengths is None else rng.permutation(starts):
        yield [samples[i] for i in order[start : start + batch_size]]


def pad_batch(samples: Sequence[Mapping[str, Any]], pad_id: int = 0) -> dict[str, Array]:
    """Samples padded on the right to one length, as the arguments of a model's call.

    Returns
    -------
    input_ids, attention_mask : (batch, longest); labels : (batch, longest) with -100 at padding, or (batch,) classes
    """
    if not samples:
        raise DataError("an empty batch cannot be padded")
    batch = {
        "input_ids": _padded([s["input_ids"] for s in samples], pad_id),
        "attention_mask": _padded([np.ones(len(s["input_ids"]), dtype=np.int64) for s in samples], 0),
    }
    if np.ndim(samples[0]["labels"]) == 0:
        batch["labels"] = np.array([s["labels"] for s in samples], dtype=np.int64)
    else:
        batch["labels"] = _padded([s["labels"] for s in samples], IGNORED)
    if "token_type_ids" in samples[0]:
        batch["token_type_ids"] = _padded([s["token_type_ids"] for s in samples], 0)
    return batch


def halves(batch: dict[str, Array]) -> list[dict[str, Array]]:
    """The rows of a large padded batch in two halves, to be computed side by side; a batch not worth it, whole.

    It depends on the batch alone, not on the machine, so that a run adds up in one order everywhere.
    """
    rows, labels = len(batch["labels"]), batch["labels"]
    if rows < 2 or batch["input_ids"].size < HALVED_TOKENS:
        return [batch]
    parts = (slice((rows + 1) // 2), slice((rows + 1) // 2, None))
    if labels.ndim == 2 and not all((labels[part, 1:] != IGNORED).any() for part in parts):
        return [batch]  # a half without a scored label has no loss
    return [{name: values[part] for name, values in batch.items()} for part in parts]


def _padded(lists: Sequence[Any], value: int) -> Array:
    """Integer lists as the rows of one array, `value` after the end of each."""
    padded = np.full((len(lists), max(len(row) for row in lists)), value, dtype=np.int64)
    for i, row in enumerate(lists):
        padded[i, : len(row)] = row
    return padded
