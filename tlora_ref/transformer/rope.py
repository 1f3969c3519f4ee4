"""Frequencies of the rotary position embedding, by rope type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from tlora_ref.backend import Array, asarray
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.settings import Settings, told, told_names

#: Types whose parameters include the length that the model was trained with before it was stretched.
STRETCHED = ("llama3", "longrope", "yarn")


@dataclass(frozen=True)
class Rope:
    """`theta` is the base; `kind` the rope type; `parameters` what that type needs (Hugging Face's names).

    `max_positions` is the model's `max_position_embeddings`, from which some types take defaults.
    """

    theta: float = 10000.0
    kind: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_positions: int = 2048

    @property
    def steady_length(self) -> float | None:
        """Up to so many tokens the frequencies are the same for any length; None where they always are."""
        if self.kind == "longrope":
            return self.number(TRAINED)
        return self.max_positions if self.kind == "dynamic" else None

    @staticmethod
    def read(settings: Settings, d_rotary: int, theta: float | None = None) -> Rope:
        """From `rope_theta` and `rope_scaling` (to transformers 4), or from `rope_parameters` (transformers 5).

        d_rotary : the channels of a head that turn
        theta : the base where the rope settings do not name it, if the family keeps it elsewhere
        """
        base = settings.take("rope_theta", float, theta)
        old = settings.take("rope_scaling", dict, None)
        new = settings.take("rope_parameters", dict, None)
        trained = settings.count_or_none("original_max_position_embeddings")
        values = {key: value for key, value in (old or new or {}).items() if value is not None}
        kind = values.pop("rope_type", None) or values.get("type") or "default"
        values.pop("type", None)
        if kind not in STRETCHED:  # it says where the model comes from; transformers does not read it
            values.pop("original_max_position_embeddings", None)
        if values.get("partial_rotary_factor") == 1.0:
            del values["partial_rotary_factor"]
        base = values.pop("rope_theta", base)
        if base is not None and not (_is_number(base) and base > 1):
            raise ConfigError(f'config.json: "rope_theta" is {told(base)}, expected a number above 1')
        if not isinstance(kind, str) or kind not in TYPES:
            raise ConfigError(
                f'config.json: rope type "{told_names([str(kind)])}" is not implemented: expected one of '
                f"{', '.join(sorted(TYPES))}"
            )
        positions = settings.count("max_position_embeddings", 2048)
        if kind in STRETCHED:
            values.setdefault("original_max_position_embeddings", positions)
            if trained is not None:
                values["original_max_position_embeddings"] = trained
        rope = Rope(10000.0 if base is None else float(base), kind, values, positions)
        rope._check(d_rotary)
        return rope

    def _check(self, d_rotary: int) -> None:
        """ConfigError for parameters that are unknown, missing or of the wrong kind."""
        unknown = sorted(set(self.parameters) - TYPES[self.kind].keys)
        if unknown:
            raise ConfigError(
                f'config.json: rope type "{self.kind}" has unknown parameter(s) {told_names(unknown)}: '
                f"expected {', '.join(sorted(TYPES[self.kind].keys)) or 'none'}"
            )
        TYPES[self.kind].frequencies(self, d_rotary, self.max_positions)

    def to_dict(self) -> dict[str, Any]:
        """The keys of a config.json that both generations of transformers read."""
        if self.kind == "default":
            return {"rope_theta": self.theta, "rope_scaling": None}
        return {"rope_theta": self.theta, "rope_scaling": {"rope_type": self.kind, **self.parameters}}

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number among the parameters, or a ConfigError naming it."""
        value = self.parameters.get(key, default)
        if not _is_number(value) or value <= 0:
            raise ConfigError(
                f'config.json: rope type "{self.kind}" needs the number "{key}" above 0, got {told(value)}'
            )
        return float(value)

    def numbers(self, key: str, count: int) -> Array:
        """A list of `count` positive numbers among the parameters, or a ConfigError naming it."""
        values = self.parameters.get(key)
        fits = isinstance(values, list | tuple) and len(values) == count
        if not fits or not all(_is_number(x) and x > 0 for x in values or ()):
            raise ConfigError(
                f'config.json: rope type "{self.kind}" needs "{key}", a list of {count} numbers above 0 (one a pair of '
                f"channels), got {told(values)}"
            )
        return np.asarray(values, dtype=np.float64)

    @property
    def stretch(self) -> float:
        """`factor`; where it is not given, the model's length over the length it was trained with."""
        trained = self.number("original_max_position_embeddings")
        return self.number("factor", self.max_positions / trained)


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


# ---------------------------------------------------------------------------------------------- the types
# Each: (rope, rotary channels, length of the sequence) -> frequencies (channels / 2,), factor of cos and sin.
Frequencies = tuple[Array, float]


def _powers(theta: float, d_rotary: int) -> Array:
    """theta^(-2i/d) (arXiv 2104.09864, section 3.2.2): (d_rotary / 2,)."""
    return np.asarray(theta ** -(np.arange(0, d_rotary, 2, dtype=np.float64) / d_rotary))


def _default(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    return _powers(rope.theta, d_rotary), 1.0


def _linear(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    """Position interpolation (arXiv 2306.15595): every position divided by `factor`."""
    return _powers(rope.theta, d_rotary) / rope.number("factor"), 1.0


def _dynamic(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    """Dynamic NTK: beyond `max_positions` the base grows with the sequence (as in arXiv 2309.00071, appendix B.1)."""
    factor, longest = rope.number("factor"), max(length, rope.max_positions)
    if d_rotary <= 2:
        raise ConfigError(f'config.json: rope type "dynamic" needs more than 2 rotary channels a head, got {d_rotary}')
    growth = factor * longest / rope.max_positions - (factor - 1.0)
    return _powers(rope.theta * growth ** (d_rotary / (d_rotary - 2)), d_rotary), 1.0


def _yarn(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    """YaRN (arXiv 2309.00071): "NTK-by-parts" frequencies (Eq. 17 to 19), and 0.1 ln(factor) + 1 (Eq. 22).

    As in transformers the ramp is linear in the channel, between the channels that turn `beta_fast` and `beta_slow`
    times within the trained length (rounded outwards unless `truncate` is false).
    """
    factor, trained = rope.stretch, rope.number("original_max_position_embeddings")

    def channel(turns: float) -> float:
        return d_rotary * math.log(trained / (turns * 2.0 * math.pi)) / (2.0 * math.log(rope.theta))

    low, high = channel(rope.number("beta_fast", 32.0)), channel(rope.number("beta_slow", 1.0))
    if rope.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d_rotary - 1)
    width = high - low if high != low else 0.001
    divided = np.clip((np.arange(d_rotary // 2, dtype=np.float64) - low) / width, 0.0, 1.0)  # 0 keeps, 1 divides
    frequency = _powers(rope.theta, d_rotary)
    return frequency / factor * divided + frequency * (1.0 - divided), _yarn_attention(rope, factor)


def _yarn_attention(rope: Rope, factor: float) -> float:
    """What cos and sin are multiplied by: `attention_factor`, or 0.1 m ln(factor) + 1, the quotient of two if both
    `mscale` and `mscale_all_dim` are given (DeepSeek's)."""

    def temperature(m: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * m * math.log(factor) + 1.0

    if "attention_factor" in rope.parameters:
        return rope.number("attention_factor")
    if rope.parameters.get("mscale") and rope.parameters.get("mscale_all_dim"):
        return temperature(rope.number("mscale")) / temperature(rope.number("mscale_all_dim"))
    return temperature(1.0)


def _longrope(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    """LongRoPE (arXiv 2402.13753): a divisor for each pair of channels, another set beyond the trained length."""
    trained, factor = rope.number("original_max_position_embeddings"), rope.stretch
    if trained <= 1.0:
        raise ConfigError(
            f'config.json: rope type "longrope" needs original_max_position_embeddings above 1, got {told(trained)}'
        )
    short, long = (rope.numbers(key, d_rotary // 2) for key in ("short_factor", "long_factor"))
    attention = 1.0 if factor <= 1.0 else math.sqrt(1.0 + math.log(factor) / math.log(trained))
    if "attention_factor" in rope.parameters:
        attention = rope.number("attention_factor")
    return _powers(rope.theta, d_rotary) / (long if length > trained else short), attention


def _llama3(rope: Rope, d_rotary: int, length: int) -> Frequencies:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended."""
    frequency = _powers(rope.theta, d_rotary)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise ConfigError(
            f'config.json: rope type "llama3" has high_freq_factor {high}, not above low_freq_factor {low}'
        )
    turns = rope.number("original_max_position_embeddings") * frequency / (2 * math.pi)  # turns within the old context
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequency + (1.0 - keep) * frequency / rope.number("factor"), 1.0


@dataclass(frozen=True)
class RopeType:
    """How a rope type computes its frequencies, and the parameters it knows (`finetuned` says nothing)."""

    frequencies: Callable[[Rope, int, int], Frequencies]
    keys: frozenset[str] = frozenset()


TRAINED = "original_max_position_embeddings"
TYPES: dict[str, RopeType] = {
    "default": RopeType(_default),
    "linear": RopeType(_linear, frozenset({"factor"})),
    "dynamic": RopeType(_dynamic, frozenset({"factor"})),
    "yarn": RopeType(
        _yarn,
        frozenset(
            {"factor", TRAINED, "attention_factor", "beta_fast", "beta_slow", "truncate", "finetuned"}
            | {"mscale", "mscale_all_dim"}
        ),
    ),
    "longrope": RopeType(_longrope, frozenset({"factor", TRAINED, "attention_factor", "short_factor", "long_factor"})),
    "llama3": RopeType(_llama3, frozenset({"factor", TRAINED, "low_freq_factor", "high_freq_factor"})),
}


def read_partial_rope(
    settings: Settings, d_head: int, part_name: str, base_name: str, usual: float
) -> tuple[Rope, int, float]:
    """A rotation of the first channels of a head: (rope, rotary channels, their share of a head's `d_head`).

    part_name, base_name : the family's own names of `partial_rotary_factor` and `rope_theta`. All spellings, those in
        transformers 5's `rope_parameters` too, must agree where several are given; the general name alone is refused
        where it is not the family's own, for transformers does not read it
    usual : the share where none is given
    """
    new = dict(settings.take("rope_scaling", dict, None) or settings.take("rope_parameters", dict, None) or {})
    part = _spelled(settings, part_name, "partial_rotary_factor", new.pop("partial_rotary_factor", None), usual)
    base = _spelled(settings, base_name, "rope_theta", new.get("rope_theta"), 10000.0)
    d_rotary = int(d_head * part)
    if not 0 < d_rotary <= d_head or d_rotary % 2:
        raise ConfigError(
            f'config.json: "{part_name}" {part} of {d_head} channels a head is {d_rotary}: an even number from 2 to '
            f"{d_head} is needed"
        )
    apart = {"rope_parameters": new, "rope_scaling": None, "rope_theta": base}
    rope = Rope.read(Settings({**settings.values, **apart}, settings.model_type), d_rotary)
    settings.seen.update(("rope_scaling", "rope_parameters", TRAINED))
    return rope, d_rotary, part


def _spelled(settings: Settings, own: str, general: str, inner: Any, usual: float) -> float:
    """What the family calls `own`, by that name, in the rope settings (`inner`), or `usual`; `general` must agree."""
    named, beside = settings.take(own, float, None), settings.take(general, float, None)
    value = _agreed(own, [named, beside, inner], usual)
    if own != general and named is None and inner is None and value != usual:
        raise ConfigError(
            f'config.json: "{general}" is {told(beside)}, which transformers does not read in a {settings.model_type} '
            f'model: it takes {usual:g}. Call it "{own}" if it is meant, or remove it'
        )
    return value


def _agreed(name: str, values: list[Any], usual: float) -> float:
    """The one number among `values` that are given, or the usual one."""
    for value in values:
        if value is not None and not _is_number(value):
            raise ConfigError(f'config.json: "{name}" is {told(value)}, expected a number')
    given = {float(value) for value in values if value is not None}
    if len(given) > 1:
        raise ConfigError(f'config.json: "{name}" is given more than once, and differently: {sorted(given)}')
    return given.pop() if given else usual


def rotary_tables(rope: Rope, d_rotary: int, positions: Array, like: Array) -> tuple[Array, Array]:
    """cos and sin of every angle, computed in float64.

    The types "dynamic" and "longrope" depend on the length of the sequence: as in transformers, the largest position
    of the batch plus 1 (so that beyond the trained length a row's result depends on the rows beside it, and keys in a
    cache keep the frequencies they were made with).

    Parameters
    ----------
    positions : host integers (batch or 1, tokens)
    like : an array of the model: the tables get its dtype and device

    Returns
    -------
    cos, sin : (batch or 1, tokens, 1, d_rotary / 2)
    """
    frequency, factor = TYPES[rope.kind].frequencies(rope, d_rotary, int(positions.max()) + 1)
    angles = positions[..., None, None].astype(np.float64) * frequency
    return asarray(np.cos(angles) * factor, like, like.dtype), asarray(np.sin(angles) * factor, like, like.dtype)
