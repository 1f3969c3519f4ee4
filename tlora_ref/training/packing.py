"""Whether a run's samples can share rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.transformer import Model


def check_packing(model: Model, data: Sequence[Mapping[str, Any]], length: int | None) -> None:
    """ConfigError for a model whose samples cannot share rows of `length` tokens, or a sample longer than a row.

    length : `TrainSettings.packing`; None, and there is nothing to check
    """
    if length is None:
        return
    longest = max(len(sample["input_ids"]) for sample in data)
    reason = model.not_packed(longest)
    if reason is not None:
        kind = f"{model.config.model_type} ({model.task_type})"
        raise ConfigError(f"packing: the samples of a {kind} model cannot share a row: {reason}. Leave packing out")
    if longest > length:
        raise ConfigError(f"packing: the longest sample has {longest} tokens, and a row {length}: make rows longer")
