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


def positions_of(keep: Array | None, tokens: int) -> Array:
    """Position of every token, counted from the first one that is not padding: (1 or batch, tokens)."""
    if keep is None:
        return np.arange(tokens)[None]
    return np.maximum(np.cumsum(keep, axis=1) - 1, 0)
