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


def pack_batch(samples: Sequence[Mapping[str, Any]], length: int, pad_id: int = 0) -> dict[str, Array]:
    """Samples side by side in rows of up to `length` tokens, as the arguments of a causal language model's call.

    The longest come first, each in the first row that has room. Nothing else is different from `pad_batch`: the same
    tokens are scored.

    Returns
    -------
    input_ids, segments, labels : (rows, longest row); `segments` are 1, 2, ... for the samples of a row, 0 at padding
    """
    if not samples:
        raise DataError("an empty batch cannot be packed")
    rows: list[list[Mapping[str, Any]]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda sample: -len(sample["input_ids"])):
        tokens = len(sample["input_ids"])
        if np.shape(sample["labels"]) != (tokens,):
            raise DataError(f"labels of shape {np.shape(sample['labels'])} for {tokens} tokens: one a token expected")
        if tokens > length:
            raise DataError(f"a sample of {tokens} tokens does not fit into a packed row of {length}")
        row = next((i for i, free in enumerate(room) if tokens <= free), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(sample)
        room[row] -= tokens

    def joined(parts: list[list[Any]]) -> Array:
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])

    batch = {
        "input_ids": _padded([joined([s["input_ids"] for s in row]) for row in rows], pad_id),
        "segments": _padded([joined([[i] * len(s["input_ids"]) for i, s in enumerate(row, 1)]) for row in rows], 0),
        # A sample's first token is never scored, and here it has another sample before it.
        "labels": _padded([joined([[IGNORED, *s["labels"][1:]] for s in row]) for row in rows], IGNORED),
    }
    if "token_type_ids" in samples[0]:
        batch["token_type_ids"] = _padded([joined([s["token_type_ids"] for s in row]) for row in rows], 0)
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
