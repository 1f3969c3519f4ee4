"""`manifest.json` of a trace: what run it is of, checked when it is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tlora_ref.adapter import INITS, UNIFORM_SCALES
from tlora_ref.checkpoint.reader import read_json
from tlora_ref.errors import CheckpointError, ConfigError, reason
from tlora_ref.method.switches import PROFILES, Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.traces.names import MANIFEST
from tlora_ref.training import TrainSettings

FORMAT, VERSION = "tlora_ref.trace", 1


#: The fields that say which run a trace is of; the others say how and by whom it was made.
RUN = (
    *("modules", "r_init", "alpha", "profile", "switches", "samples", "init", "seed"),
    *("adapt_rank", "adapt_scale", "uniform_scale", "train"),
)


@dataclass
class Manifest:
    """What a trace says of itself. A recorded candidate needs the first five; the rest has defaults.

    Attributes
    ----------
    modules : [{"name", "d_out", "d_in"}], in model order
    dtype : precision of the run: "float64", "float32", "tf32", "bfloat16" or "float16"
    init, adapt_rank, adapt_scale, uniform_scale : how A, ranks and scales are made, as `initialize` and `allocate` say
    noise : {dtype: {quantity: {key: how far a run in that dtype is from this one}}}; see FORMAT.md
    command : what regenerates the trace
    """

    modules: list[dict[str, Any]]
    r_init: int
    alpha: float
    profile: str = "paper"
    dtype: str = "float64"
    switches: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    version: int = VERSION
    samples: int = 0
    init: str = "wc-svd"
    seed: int = 42
    adapt_rank: bool = True
    adapt_scale: bool = True
    uniform_scale: str = "alpha/r_init"
    stages: list[str] = field(default_factory=list)
    train: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.switches:
            if self.profile not in PROFILES:
                raise ConfigError(f"manifest: profile {self.profile!r} is unknown and no switches are given")
            self.switches = PROFILES[self.profile].to_dict()
        for name, value, known in (("init", self.init, INITS), ("uniform_scale", self.uniform_scale, UNIFORM_SCALES)):
            if value not in known:
                raise ConfigError(f"manifest: {name} is {value!r}, expected one of {', '.join(known)}")

    @staticmethod
    def like(golden: Manifest, dtype: str, **changes: Any) -> Manifest:
        """The manifest of a candidate that was held to `golden`: the same run, in another precision.

        dtype : what the candidate works in, "float32" say; changes : other fields
        """
        same = {name: copy.deepcopy(getattr(golden, name)) for name in RUN}
        return Manifest(**{**same, "dtype": Precision.of(dtype).name, **changes})

    def __repr__(self) -> str:
        steps = self.train.get("steps", 0)
        return (
            f"Manifest (profile {self.profile}, {self.dtype}): {len(self.modules)} modules at r_init {self.r_init}, "
            f"alpha {self.alpha:g}; {self.samples} samples, {steps} steps"
        )

    def resolved(self) -> Switches:
        """The switches of the run; ConfigError for an unknown one."""
        return Switches.from_dict(self.switches)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """{module: (d_out, d_in)}, in model order."""
        return {m["name"]: (int(m["d_out"]), int(m["d_in"])) for m in self.modules}

    @staticmethod
    def read(folder: Path) -> Manifest:
        """From a trace's folder; CheckpointError for what is no manifest of this version."""
        path = folder / MANIFEST
        if not path.is_file():
            raise CheckpointError(
                f"{folder}: there is no {MANIFEST}, so it is no trace. Record one with tlora-ref trace"
            )
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise CheckpointError(f"{path}: the format is {values.get('format')!r}, expected {FORMAT!r}")
        if values.get("version") != VERSION:
            raise CheckpointError(
                f"{path}: a trace of version {values.get('version')!r}; this library reads {VERSION}. Record it again"
            )
        _check_kinds(path, values)
        known = {f.name for f in fields(Manifest)}
        needed = {"modules", "r_init", "alpha"}
        if set(values) - known or needed - set(values):
            odd = sorted((set(values) - known) | (needed - set(values)))
            raise CheckpointError(
                f"{path}: unknown or missing: {', '.join(odd)}. FORMAT.md in oracle/traces lists what it has"
            )
        try:
            completed(values.get("train", {}))
            manifest = Manifest(**values)
            manifest.shapes()
            manifest.resolved()
            Precision.of(manifest.dtype)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: not what a manifest holds ({type(error).__name__}: {reason(error)})"
            ) from error
        return manifest


#: The fields of a manifest that are read, and what JSON must hold there.
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("modules", "stages", "command"), (list, "a list")),
    **dict.fromkeys(("switches", "train", "checkpoint", "data", "versions", "noise"), (dict, "an object")),
    **dict.fromkeys(("r_init", "samples", "seed"), (int, "an integer")),
    **dict.fromkeys(("profile", "dtype", "init", "uniform_scale"), (str, "a text")),
    **dict.fromkeys(("adapt_rank", "adapt_scale"), (bool, "true or false")),
    "alpha": ((int, float), "a number"),
}


def _check_kinds(path: Path, values: Mapping[str, Any]) -> None:
    """CheckpointError for a field of the manifest that holds another kind of value than it should."""
    for name, (kind, expected) in KINDS.items():
        value = values.get(name)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if name in values and wrong:
            raise CheckpointError(f'{path}: "{name}" is {value!r:.60}, expected {expected}')
    for m in values.get("modules", []):
        sizes = [m.get(side) for side in ("d_out", "d_in")] if isinstance(m, dict) else [None]
        if not all(type(n) is int and 0 < n < 2**31 for n in sizes) or not isinstance(m.get("name"), str):
            raise CheckpointError(f"{path}: a module is {m!r:.80}, expected its name, d_out and d_in")
    names = [m["name"] for m in values.get("modules", [])]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CheckpointError(f"{path}: {twice[0]} is listed twice under modules")
    for dtype, quantities in values.get("noise", {}).items():
        tables = quantities.values() if isinstance(quantities, dict) else [quantities]
        if not all(isinstance(t, dict) and all(isinstance(x, int | float) for x in t.values()) for t in tables):
            raise CheckpointError(f'{path}: "noise" of {dtype} is not {{quantity: {{key: number}}}}')


def completed(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training run from `train` blocks, later ones first; what none says is as usual. {} of none."""
    said = {name: value for block in blocks for name, value in block.items()}
    tuples = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    return TrainSettings(**{**said, **tuples}).to_dict() if said else {}
