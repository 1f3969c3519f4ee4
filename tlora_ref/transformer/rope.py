"""Frequencies of the rotary position embedding, by rope type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlora_ref.backend import Array, asarray
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Rope:
    """`theta` is the base; `kind` the rope type; `parameters` what that type needs (Hugging Face's names)."""

    theta: float = 10000.0
    kind: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def read(settings: Settings, default_theta: float = 10000.0) -> Rope:
        """From `rope_theta` and `rope_scaling` (to transformers 4), or from `rope_parameters` (transformers 5)."""
        theta = settings.take("rope_theta", float, None)
        old = settings.take("rope_scaling", dict, None)
        new = settings.take("rope_parameters", dict, None)
        values = dict(new or old or {})
        kind = values.pop("rope_type", None) or values.pop("type", None) or "default"
        values.pop("type", None)
        theta = values.pop("rope_theta", theta)
        if kind not in FREQUENCIES:
            raise ConfigError(
                f'config.json: rope type "{kind}" is not implemented: expected one of {", ".join(sorted(FREQUENCIES))}'
            )
        return Rope(float(default_theta if theta is None else theta), kind, values)

    def to_dict(self) -> dict[str, Any]:
        """The keys of a config.json that both generations of transformers read."""
        if self.kind == "default":
            return {"rope_theta": self.theta, "rope_scaling": None}
        return {"rope_theta": self.theta, "rope_scaling": {"rope_type": self.kind, **self.parameters}}

    def number(self, key: str) -> float:
        """A number among the parameters, or a ConfigError naming it."""
        value = self.parameters.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f'config.json: rope type "{self.kind}" needs the number "{key}", got {value!r}')
        return float(value)


def _default(rope: Rope, d_rotary: int) -> Array:
    """theta^(-2i/d) (arXiv 2104.09864, section 3.2.2)."""
    exponents = np.arange(0, d_rotary, 2, dtype=np.float64) / d_rotary
    return np.asarray(rope.theta**-exponents)  # (d_rotary / 2,)


def _linear(rope: Rope, d_rotary: int) -> Array:
    """Position interpolation (arXiv 2306.15595): every position divided by `factor`."""
    return _default(rope, d_rotary) / rope.number("factor")


def _llama3(rope: Rope, d_rotary: int) -> Array:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended."""
    frequency = _default(rope, d_rotary)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    turns = rope.number("original_max_position_embeddings") * frequency / (2 * math.pi)  # turns within the old context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(keep * frequency + (1.0 - keep) * frequency / rope.number("factor"))


#: Rope type -> (rope, rotary channels) -> float64 frequencies, one a pair of channels.
FREQUENCIES: dict[str, Callable[[Rope, int], Array]] = {"default": _default, "linear": _linear, "llama3": _llama3}


def rotary_tables(rope: Rope, d_rotary: int, positions: Array, like: Array) -> tuple[Array, Array]:
    """cos and sin of every angle, computed in float64.

    Parameters
    ----------
    positions : host integers (batch or 1, tokens)
    like : an array of the model: the tables get its dtype and device

    Returns
    -------
    cos, sin : (batch or 1, tokens, 1, d_rotary / 2)
    """
    angles = positions[..., None, None].astype(np.float64) * FREQUENCIES[rope.kind](rope, d_rotary)
    return asarray(np.cos(angles), like, like.dtype), asarray(np.sin(angles), like, like.dtype)
