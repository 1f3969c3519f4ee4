"""A plan: the rank and the scale of every module, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.method.switches import Switches
from tlora_ref.names import mean, span, told_by_kind


@dataclass(frozen=True)
class Plan:
    """Which rank and which scale every module gets, and why.

    Attributes
    ----------
    rank : r_i used; rank_eq6 : r_i as Eq. 6 gives it, before any rule
    alpha : rank * scale, so that alpha / rank is the scale (what PEFT's `alpha_pattern` wants)
    sensitivity, share : S_i and S_i / sum S
    notes : {module: what a rule changed}, for the modules where one acted
    """

    rank: dict[str, int]
    rank_eq6: dict[str, int]
    alpha: dict[str, float]
    scales: dict[str, float]
    sensitivity: dict[str, float]
    share: dict[str, float]
    shapes: dict[str, tuple[int, int]]
    r_init: int
    alpha_init: float
    switches: Switches
    adapt_rank: bool = True
    adapt_scale: bool = True
    uniform_scale: str = "alpha/r_init"
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def profile(self) -> str:
        return self.switches.name

    def scale(self, module: str) -> float:
        """alpha_i / r_i, defined at rank 0 too; ConfigError for a module that the plan does not hold."""
        if module not in self.scales:
            raise ConfigError(f"the plan holds no module {module}: it was made for {', '.join(self.scales)}")
        return self.scales[module]

    @property
    def trainable_parameters(self) -> int:
        """Entries of all B, and of all A where the profile does not freeze them."""
        d_in = 0 if self.switches.freeze_A else 1
        return sum((self.shapes[m][0] + d_in * self.shapes[m][1]) * r for m, r in self.rank.items())

    @property
    def budget(self) -> int:
        """R_total: what the ranks should sum to (Alg. 1, line 12)."""
        return len(self.rank) * self.r_init

    @property
    def spent(self) -> int:
        """What the ranks do sum to."""
        return sum(self.rank.values())

    @property
    def rounding(self) -> int:
        """By how much the ranks of Eq. 6, each rounded by itself, sum to more than the budget."""
        return sum(self.rank_eq6.values()) - self.budget

    @property
    def lora_parameters(self) -> int:
        """Entries of A and B of plain LoRA at r_init."""
        return sum((d_out + d_in) * self.r_init for d_out, d_in in self.shapes.values())

    def __repr__(self) -> str:
        how = "" if self.adapt_rank else ", uniform ranks"
        how += "" if self.adapt_scale else f", uniform scales {self.uniform_scale}"
        lines = [
            f"Plan (profile {self.profile}{how}): {len(self.rank)} modules at r_init {self.r_init}, alpha "
            f"{self.alpha_init:g}",
            f"ranks {span(self.rank.values())}, sum {self.spent} of {self.budget}; "
            f"{sum(r == 0 for r in self.rank.values())} without a rank; scales {span(self.scales.values())}",
            f"mean rank: {told_by_kind(self.rank, mean)}",
            f"trains {self.trainable_parameters:,} parameters (plain LoRA {self.lora_parameters:,})",
        ]
        for module, note in list(self.notes.items())[:1]:
            lines.append(f"notes: {len(self.notes)}, the first on {module}: {note}")
        return "\n  ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        shapes = {m: list(shape) for m, shape in self.shapes.items()}
        return {**values, "shapes": shapes, "switches": self.switches.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Plan:
        """What `to_dict` gave; ConfigError if a field is missing, unknown, or not what `to_dict` gives."""
        fields = set(Plan.__dataclass_fields__)
        if set(values) != fields:
            raise ConfigError(f"a stored plan has the wrong fields: {', '.join(sorted(set(values) ^ fields))}")
        for name, fits in STORED.items():
            if not fits(values[name]):
                raise ConfigError(f'a stored plan has "{name}": {values[name]!r:.80}, which no plan has')
        modules = list(values["rank"])
        for name in ("rank_eq6", "alpha", "scales", "sensitivity", "share", "shapes"):
            if list(values[name]) != modules:
                raise ConfigError(f'a stored plan has ranks and "{name}" of different modules')
        shapes = {m: (s[0], s[1]) for m, s in values["shapes"].items()}
        return Plan(**{**values, "shapes": shapes, "switches": Switches.from_dict(values["switches"])})


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 2**31


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _is_shape(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 2 and all(map(_is_count, x)) and min(x) > 0


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether something is {module: what `fits`}."""
    return lambda x: isinstance(x, dict) and all(map(fits, x.values()))


#: What each field of a stored plan is.
STORED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("rank", "rank_eq6"), _each(_is_count)),
    **dict.fromkeys(("alpha", "scales", "sensitivity", "share"), _each(_is_number)),
    "shapes": _each(_is_shape),
    "notes": _each(lambda x: isinstance(x, str)),
    "r_init": _is_count,
    "alpha_init": _is_number,
    "switches": lambda x: isinstance(x, dict),
    **dict.fromkeys(("adapt_rank", "adapt_scale"), lambda x: isinstance(x, bool)),
    "uniform_scale": lambda x: isinstance(x, str),
}
