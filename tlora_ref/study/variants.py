"""The variants that the paper compares, each a name for a few settings of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tlora_ref.adapter import INITS, Plan, allocate
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.method.switches import PROFILES

#: What is trained: B of a frozen A, both, or every weight of the model and no adapter.
TRAINED = ("B", "AB", "all")
#: How many parameters plain LoRA trains is the budget of a comparison at equal parameters.
EQUAL = ("rank", "parameters")


@dataclass(frozen=True)
class Variant:
    """How an adapter is made and what of it is trained.

    Attributes
    ----------
    init : how A is made, one of `INITS`
    trained : "B" (A frozen), "AB", or "all" (the model's own weights; the other settings say what the update is
        compared with)
    adapt_rank, adapt_scale : ranks by Eq. 6, scales by Eq. 7; else r_init and plain LoRA's scale everywhere
    uniform_scale : what plain LoRA's scale is where ranks differ (see `tlora_ref.allocate`)
    profile : "paper" or "released"; what is trained is said by `trained` alone
    """

    init: str = "wc-svd"
    trained: str = "B"
    adapt_rank: bool = False
    adapt_scale: bool = False
    uniform_scale: str = "alpha/r_init"
    profile: str = "paper"

    def __post_init__(self) -> None:
        for name, known in (("init", INITS), ("trained", TRAINED), ("profile", tuple(PROFILES))):
            if getattr(self, name) not in known:
                hint = did_you_mean(getattr(self, name), known)
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}{hint}")
        for name in ("adapt_rank", "adapt_scale"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected true or false")
        if self.trained == "all" and (self.adapt_rank or self.adapt_scale):
            raise ConfigError('trained is "all": there is no adapter whose ranks or scales could be adapted')
        self.allocate({"one": 1.0}, {"one": (1, 1)}, 1)

    @property
    def calibrated(self) -> bool:
        """Whether it looks at samples at all."""
        return self.init in ("wc-svd", "theory") or self.adapt_rank or self.adapt_scale

    def allocate(self, sensitivity: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], rank: int) -> Plan:
        """Ranks and scales at r_init = alpha = `rank`, as the paper has them."""
        rules: dict[str, Any] = {"adapt_rank": self.adapt_rank, "adapt_scale": self.adapt_scale}
        rules |= {"uniform_scale": self.uniform_scale, "freeze_A": self.trained == "B"}
        return allocate(sensitivity, shapes, rank, float(rank), self.profile, **rules)

    def parameters(self, plan: Plan) -> int:
        """How many numbers are trained."""
        sides = ((plan.shapes[m], r) for m, r in plan.rank.items())
        return sum(r * (d_out + (d_in if self.trained == "AB" else 0)) for (d_out, d_in), r in sides)

    def largest(self, sensitivity: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], rank: int) -> Plan:
        """The plan of the largest r_init that trains no more than plain LoRA does at `rank`; r_init is 1 at least."""
        budget = rank * sum(d_out + d_in for d_out, d_in in shapes.values())
        best = self.allocate(sensitivity, shapes, 1)
        for r_init in range(2, max(max(shape) for shape in shapes.values()) + 1):
            plan = self.allocate(sensitivity, shapes, r_init)
            if self.parameters(plan) > budget:
                break
            best = plan
        return best

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


_RA, _SA = {"adapt_rank": True}, {"adapt_scale": True}
#: Tables 4, 5, 6 and 12 and App. B.1, by the paper's names.
VARIANTS: dict[str, Variant] = {
    "LoRA": Variant("random", "AB"),
    "+RA": Variant("random", "AB", adapt_rank=True),
    "+SA": Variant("random", "AB", adapt_scale=True),
    "+RA+SA": Variant("random", "AB", adapt_rank=True, adapt_scale=True),
    "+Init": Variant("wc-svd"),
    "+Init+RA": Variant("wc-svd", adapt_rank=True),
    "+Init+SA": Variant("wc-svd", adapt_scale=True),
    "TLoRA": Variant("wc-svd", adapt_rank=True, adapt_scale=True),
    "TLoRA, A trained": Variant("wc-svd", "AB", adapt_rank=True, adapt_scale=True),
    "random A": Variant("random"),
    "W-SVD": Variant("w-svd"),
    "WC-SVD": Variant("wc-svd"),
    "WC-SVD, A trained": Variant("wc-svd", "AB"),
    "theory": Variant("theory"),
    "theory, A trained": Variant("theory", "AB"),
    "all weights": Variant("wc-svd", "all"),
    "released": Variant("wc-svd", "AB", adapt_rank=True, adapt_scale=True, profile="released"),
}


def variant_of(name: str, settings: Mapping[str, Any] | None) -> Variant:
    """A variant by its name, or a new one by its settings; ConfigError for what is not known."""
    if settings is None:
        if name not in VARIANTS:
            hint = did_you_mean(name, VARIANTS, {"init": "+Init", "wcsvd": "WC-SVD", "random": "random A"})
            raise ConfigError(f'variant "{name}" is unknown: give settings, or one of {", ".join(VARIANTS)}{hint}')
        return VARIANTS[name]
    known = [f.name for f in fields(Variant)]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f'variant "{name}": unknown key "{key}", expected {", ".join(known)}{did_you_mean(key, known)}'
            )
    try:
        return Variant(**settings)
    except ConfigError as error:
        raise ConfigError(f'variant "{name}": {error}') from error
