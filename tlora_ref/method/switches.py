"""Where the paper and the authors' released code part: a named switch for each difference, and two settings of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tlora_ref.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Switches:
    """Independent switches. The defaults are the paper; `PROFILES["released"]` is what the authors' code does.

    Attributes
    ----------
    name : the profile these switches started from; "+" marks that some were changed
    centre : subtract each sample's own token mean from X before X^T X (the paper does not, Alg. 1, line 9)
    remainder : "none" (Eq. 6 as it stands), or "largest": the module of the largest rank takes +1 / -1 until the
        ranks sum to R_total, looked up anew each time, the first on ties
    round_alpha : round alpha_total * share to an integer, and divide by r_init (the released scale)
    floor_alpha : that alpha is never below plain LoRA's
    rank_floor : every module gets at least this rank (0: a module may get none)
    cap_rank : cut ranks to min(d_out, d_in); without it rows of A beyond rank(W C) are arbitrary null directions
    redistribute : hand ranks that the cap cut off to other modules, by sensitivity
    freeze_A : train B alone; the released code leaves A trainable
    svd_dtype : precision of the SVD: "float64", or the released code's "float32"
    """

    name: str = "paper"
    centre: bool = False
    remainder: str = "none"
    round_alpha: bool = False
    floor_alpha: bool = False
    rank_floor: int = 0
    cap_rank: bool = True
    redistribute: bool = False
    freeze_A: bool = True
    svd_dtype: str = "float64"

    def __post_init__(self) -> None:
        if self.remainder not in ("none", "largest"):
            raise ConfigError(f'switch remainder is {self.remainder!r}, expected "none" or "largest"')
        if self.svd_dtype not in ("float64", "float32"):
            raise ConfigError(f'switch svd_dtype is {self.svd_dtype!r}, expected "float64" or "float32"')
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "bool" and not isinstance(value, bool):
                raise ConfigError(f"switch {f.name} is {value!r}, expected true or false")
        if not isinstance(self.rank_floor, int) or isinstance(self.rank_floor, bool) or self.rank_floor < 0:
            raise ConfigError(f"switch rank_floor is {self.rank_floor!r}, expected an integer, not negative")
        if self.redistribute and not self.cap_rank:
            raise ConfigError("switch redistribute hands on what cap_rank cuts off: turn cap_rank on as well")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for manifests."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Switches:
        """What `to_dict` gave; ConfigError for an unknown switch."""
        unknown = set(values) - {f.name for f in fields(Switches)}
        if unknown:
            raise ConfigError(f"unknown switch(es) {', '.join(sorted(unknown))}")
        return Switches(**values)


#: The named settings: what the README's table of differences compares.
PROFILES: dict[str, Switches] = {
    "paper": Switches(),
    "released": Switches(
        name="released",
        centre=True,
        remainder="largest",
        round_alpha=True,
        floor_alpha=True,
        cap_rank=False,
        freeze_A=False,
        svd_dtype="float32",
    ),
}


#: What else they might be called.
PROFILES_ELSEWHERE = {
    **dict.fromkeys(("default", "tlora", "arxiv"), "paper"),
    **dict.fromkeys(("published", "official", "authors", "code", "github", "release"), "released"),
}


def resolve(profile: str | Switches, **changes: Any) -> Switches:
    """The switches of a profile, with `changes` made (and marked by a "+" after the name).

    Raises
    ------
    ConfigError
        for a profile or a switch that does not exist.
    """
    if isinstance(profile, Switches):
        switches = profile
    elif profile in PROFILES:
        switches = PROFILES[profile]
    else:
        hint = did_you_mean(profile, PROFILES, PROFILES_ELSEWHERE)
        raise ConfigError(f'profile "{profile}" is unknown: expected {" or ".join(sorted(PROFILES))}{hint}')
    known = {f.name for f in fields(Switches)} - {"name"}
    unknown = set(changes) - known
    if unknown:
        hint = did_you_mean(min(unknown), known, {"center": "centre", "freeze_a": "freeze_A"})
        raise ConfigError(
            f"unknown switch(es) {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(known))}{hint}"
        )
    real = {key: value for key, value in changes.items() if getattr(switches, key) != value}
    if not real:
        return switches
    return replace(switches, name=switches.name.removesuffix("+") + "+", **real)
