"""Digests by which a trace knows its weights and its samples again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlora_ref.backend import Array, to_numpy


def weights_digest(tensors: Mapping[str, Array]) -> str:
    """SHA-256 over the names, shapes and bytes (in float64) of a model's tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = to_numpy(tensors[name])
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return digest.hexdigest()


def samples_digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the samples, as JSON: one at a time, for there may be many."""
    digest = hashlib.sha256(b"[")
    for n, sample in enumerate(samples):
        row = {k: np.asarray(v).tolist() for k, v in sorted(sample.items())}
        digest.update((", " * (n > 0) + json.dumps(row)).encode())
    digest.update(b"]")
    return digest.hexdigest()
