"""Layers of two kinds, as `layer_types` of a config.json says: some see a window of the latest tokens, some all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.transformer.settings import Settings, told

FULL, SLIDING = LAYER_TYPES = ("full_attention", "sliding_attention")


def read_layer_types(settings: Settings, implied: Sequence[str], window: int | None) -> tuple[str, ...]:
    """`layer_types`, one entry a layer; `implied` where config.json has none.

    window : the length of the window, without which no layer can have one
    """
    types = settings.take("layer_types", list, list(implied))
    if len(types) != len(implied) or not all(kind in LAYER_TYPES for kind in types):
        raise ConfigError(
            f'config.json: "layer_types" is {told(types)}: expected {len(implied)} entries, each one of {LAYER_TYPES}'
        )
    if window is None and SLIDING in types:
        raise ConfigError(
            'config.json: "layer_types" has "sliding_attention", but "use_sliding_window" and "sliding_window" '
            "set no window"
        )
    return tuple(types)


def window_of(config: Any, layer: int) -> int | None:
    """The window of a layer in tokens, None for all of them."""
    return int(config.sliding_window) if config.layer_types[layer] == SLIDING else None
