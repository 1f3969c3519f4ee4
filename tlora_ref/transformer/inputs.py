"""Checking what a caller passes to a model, once, at the door."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import DataError, ShapeError

#: Labels with this value are not scored (the convention of PyTorch and transformers).
IGNORED = -100


def host_array(values: Any, name: str) -> Array:
    """`values` as a host array; rows of different lengths are a ShapeError and not NumPy's ValueError."""
    try:
        return np.asarray(to_numpy(values))
    except ValueError:
        raise ShapeError(f"{name}: rows of different lengths: pad them to one length and pass attention_mask") from None


def token_ids(values: Any, vocab_size: int, name: str = "input_ids") -> Array:
    """Token ids as a host (batch, tokens) array; a 1-D sample becomes a batch of one."""
    ids = host_array(values, name)
    if ids.ndim == 1:
        ids = ids[None]
    if ids.ndim != 2 or ids.size == 0:
        raise ShapeError(f"{name} has shape {ids.shape}: expected (tokens,) or (batch, tokens), and at least one token")
    if ids.dtype.kind not in "iu":
        raise DataError(f"{name} is {ids.dtype}: expected integer token ids")
    if ids.min() < 0 or ids.max() >= vocab_size:
        worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise DataError(
            f"{name} holds token id {worst}, outside the model's vocabulary of {vocab_size} (0 to {vocab_size - 1}): "
            "was the text encoded with another model's tokenizer?"
        )
    return ids.astype(np.int64)


def padding_mask(mask: Any, ids: Array, name: str = "attention_mask") -> Array | None:
    """A host boolean (batch, tokens) mask, True at tokens and False at padding; None where there is no padding."""
    if mask is None:
        return None
    given = host_array(mask, name)
    if not ((given == 0) | (given == 1)).all():
        raise DataError(f"{name} holds values other than 0 and 1: expected 1 at tokens, 0 at padding")
    keep = given != 0
    if keep.ndim == 1:
        keep = keep[None]
    if keep.shape != ids.shape:
        raise ShapeError(f"{name} has shape {keep.shape}, the token ids {ids.shape}: they must agree")
    if not keep.any(axis=1).all():
        raise DataError(f"{name}: row {int(np.argmin(keep.any(axis=1)))} is all padding; drop it from the batch")
    return None if keep.all() else keep


def token_labels(labels: Any, ids: Array, vocab_size: int) -> Array:
    """Labels of every token as a host (batch, tokens) array, `IGNORED` where a token is not scored."""
    values = host_array(labels, "labels")
    if values.ndim == 1:
        values = values[None]
    if values.shape != ids.shape:
        raise ShapeError(f"labels have shape {values.shape}, the token ids {ids.shape}: one label a token is expected")
    if values.dtype.kind not in "iu":
        raise DataError(f"labels are {values.dtype}: expected integer token ids")
    scored = values[values != IGNORED]
    if scored.size and (scored.min() < 0 or scored.max() >= vocab_size):
        worst = int(scored.min()) if scored.min() < 0 else int(scored.max())
        raise DataError(f"labels hold {worst}: expected {IGNORED} (not scored) or 0 to {vocab_size - 1}")
    return values.astype(np.int64)


def packed_samples(values: Any, ids: Array) -> Array:
    """The numbers of the samples of packed rows, host int64 (batch, tokens), 0 at padding; each sample in one piece."""
    numbers = host_array(values, "segments")
    if numbers.ndim == 1:
        numbers = numbers[None]
    if numbers.shape != ids.shape:
        raise ShapeError(f"segments have shape {numbers.shape}, the token ids {ids.shape}: one number a token")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise DataError("segments: expected a positive integer for each sample of a row, and 0 at padding")
    for row, begins in enumerate(sample_begins(numbers)):
        found = numbers[row, begins]
        if found.size == 0:
            raise DataError(f"segments: row {row} is all padding; drop it from the batch")
        if len(set(found.tolist())) < found.size:
            raise DataError(f"segments: a sample of row {row} stands in two places: its tokens must be side by side")
    return numbers.astype(np.int64)


def sample_begins(numbers: Array) -> Array:
    """True at the first token of every sample of packed rows: (batch, tokens)."""
    before = np.concatenate([np.zeros_like(numbers[:, :1]), numbers[:, :-1]], axis=1)
    return (numbers != 0) & (numbers != before)


def first_of_sample(numbers: Array) -> Array:
    """Where the sample of every token of packed rows begins (batch, tokens); padding belongs to the one before it."""
    at = np.where(sample_begins(numbers), np.arange(numbers.shape[1]), 0)
    return np.asarray(np.maximum.accumulate(at, axis=1))


def positions_of(keep: Array | None, tokens: int) -> Array:
    """Position of every token, counted from its row's first one that is not padding, or from its packed sample's first:
    (1 or batch, tokens), 0 at padding before a row and between samples."""
    if keep is None:
        return np.arange(tokens)[None]
    if keep.dtype != bool:
        return np.where(keep != 0, np.arange(tokens) - first_of_sample(keep), 0)
    return np.maximum(np.cumsum(keep, axis=1) - 1, 0)
