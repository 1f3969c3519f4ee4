"""Layers of two kinds, as `layer_types` of a config.json says: some see a window of the nearest tokens, some all."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.transformer.rope import Rope
from tlora_ref.transformer.settings import Settings, told, told_names

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


def read_ropes(
    settings: Settings, d_rotary: int, bases: Mapping[str, tuple[str, float]], scaled: Collection[str]
) -> dict[str, Rope]:
    """{kind of layer: its rotary embedding}, from a key for each base (transformers 4) or `rope_parameters` a kind (5).

    d_rotary : the channels of a head that turn
    bases : {kind: (the key of its base in transformers 4, the base where it is missing)}
    scaled : the kinds that `rope_scaling` is meant for
    """
    by_kind = settings.take("rope_parameters", dict, None) or {}
    if not set(by_kind) <= set(LAYER_TYPES):
        raise ConfigError(
            f'config.json: "rope_parameters" has {told_names(by_kind)}: expected {", ".join(LAYER_TYPES)}'
        )
    scaling = settings.take("rope_scaling", dict, None) or {}
    ropes = {}
    for kind, (key, usual) in bases.items():
        base = settings.take(key, float, usual)
        both = {**Settings(by_kind, settings.model_type).take(kind, dict, {}), **(scaling if kind in scaled else {})}
        own = {"rope_theta": base, "rope_scaling": None, "rope_parameters": both or None}
        ropes[kind] = Rope.read(Settings({**settings.values, **own}, settings.model_type), d_rotary)
    settings.seen.add("original_max_position_embeddings")
    return ropes


def ropes_dict(ropes: Mapping[str, Rope]) -> dict[str, Any]:
    """The `rope_parameters` of layers of two kinds."""
    return {
        "rope_parameters": {
            kind: {"rope_type": rope.kind, "rope_theta": rope.theta, **rope.parameters} for kind, rope in ropes.items()
        }
    }
