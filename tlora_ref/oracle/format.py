"""The golden trace: a folder of `trace.safetensors` (flat names, listed in FORMAT.md) and `manifest.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tlora_ref.backend import Array, to_numpy
from tlora_ref.checkpoint.reader import check_finite, inside, read_header, read_json, read_tensors
from tlora_ref.checkpoint.write import new_folder, write_json
from tlora_ref.errors import CheckpointError, ConfigError, ShapeError
from tlora_ref.method.switches import PROFILES, Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.training import TrainSettings

FORMAT, VERSION = "tlora_ref.trace", 1
TENSORS, MANIFEST = "trace.safetensors", "manifest.json"

#: Name -> shape, where d_out, d_in, r are the module's and None is any length. "" is a name without a module.
SAMPLE_FIELDS = {"input_ids": 1, "labels": None, "decoder_input_ids": 1, "token_type_ids": 1, "attention_mask": 1}
MODULE_SHAPES: dict[str, tuple[Any, ...]] = {
    "covariance": ("d_in", "d_in"),
    "sensitivity": (),
    "rank_eq6": (),
    "rank": (),
    "alpha": (),
    "scale": (),
    "sigma": (None,),
    "A": ("r", "d_in"),
    "merged": ("d_out", "d_in"),
}
SAMPLE_SHAPES: dict[str, tuple[Any, ...]] = {
    "sensitivity": (),
    "tokens": (),
    "input_sum": ("d_in",),
    "input": (None, "d_in"),
    "grad_W": ("d_out", "d_in"),
}
STEP_SHAPES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("grad_B", "B", "exp_avg", "exp_avg_sq"), ("d_out", "r")),
    **dict.fromkeys(("grad_A", "A", "A_exp_avg", "A_exp_avg_sq"), ("r", "d_in")),
}
#: Names without a module -> their number of axes (None: more than one is possible).
PLAIN: dict[str, int | None] = {
    r"sample/\d+/loss": 0,
    r"train/(loss|lr)": 1,
    r"sample/\d+/(logits|input_ids|labels|decoder_input_ids|token_type_ids|attention_mask)": None,
    r"train/\d+/(input_ids|labels|attention_mask|decoder_input_ids|token_type_ids)": None,
}


@dataclass
class Manifest:
    """What a trace says of itself. A recorded candidate needs the first five; the rest has defaults.

    Attributes
    ----------
    modules : [{"name", "d_out", "d_in"}], in model order
    dtype : precision of the run: "float64", "float32", "tf32", "bfloat16" or "float16"
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
            raise CheckpointError(f"{path}: unknown or missing: {', '.join(odd)}. FORMAT.md lists what a manifest has")
        try:
            if values.get("train"):
                values["train"] = TrainSettings(**{**values["train"], **_tuples(values["train"])}).to_dict()
            manifest = Manifest(**values)
            manifest.shapes()
            manifest.resolved()
            Precision.of(manifest.dtype)
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not what a manifest holds ({type(error).__name__}: {error})") from error
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
    names = [m.get("name") if isinstance(m, dict) else m for m in values.get("modules", [])]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CheckpointError(f"{path}: {twice[0]} is listed twice under modules")
    for dtype, quantities in values.get("noise", {}).items():
        tables = quantities.values() if isinstance(quantities, dict) else [quantities]
        if not all(isinstance(t, dict) and all(isinstance(x, int | float) for x in t.values()) for t in tables):
            raise CheckpointError(f'{path}: "noise" of {dtype} is not {{quantity: {{key: number}}}}')


def _tuples(train: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The settings that JSON holds as lists."""
    return {name: tuple(value) for name, value in train.items() if isinstance(value, list)}


class TraceWriter:
    """Collects the tensors of a trace under their names, checked, and writes the folder whole or not at all."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tensors: dict[str, Array] = {}
        self._shapes = manifest.shapes()

    def add(self, name: str, value: Any) -> None:
        """One quantity. ConfigError for a name that the format does not have, ShapeError for another shape."""
        array = np.array(to_numpy(value), order="C")  # a copy: the caller may go on changing it
        check_name(name, array.shape, self._shapes)
        if name in self.tensors:
            raise ConfigError(f"trace: {name} is recorded twice")
        self.tensors[name] = array

    def write(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `folder` (beside, then renamed)."""
        with new_folder(folder, overwrite=overwrite) as beside:
            save_file(self.tensors, beside / TENSORS, metadata={"format": "np"})
            (beside / TENSORS).chmod(0o644)
            write_json(asdict(self.manifest), beside / MANIFEST)


def check_name(name: str, shape: Sequence[int], shapes: Mapping[str, tuple[int, int]]) -> tuple[str, int] | None:
    """The module and r, of a name that has an axis of length r.

    ConfigError for a name that the format lacks or a module that is not listed; ShapeError for a wrong shape.
    """
    for plain, axes in PLAIN.items():
        if re.fullmatch(plain, name):
            if axes not in (None, len(shape)):
                raise ShapeError(f"trace: {name} has shape {tuple(shape)}, expected {axes} axes")
            return None
    for pattern, table in ((r"sample/\d+/", SAMPLE_SHAPES), (r"train/\d+/", STEP_SHAPES), (r"", MODULE_SHAPES)):
        match = re.fullmatch(pattern + r"([A-Za-z_0-9]+)/(.+)", name)
        if match is None or match[1] not in table:
            continue
        if match[2] not in shapes:
            raise ConfigError(f"trace: {name} is of a module that the manifest does not list")
        d_out, d_in = shapes[match[2]]
        expected = [{"d_out": d_out, "d_in": d_in}.get(axis) for axis in table[match[1]]]
        if len(shape) != len(expected) or any(e is not None and e != n for e, n in zip(expected, shape, strict=True)):
            said = ", ".join(str(axis or "any") for axis in table[match[1]])
            raise ShapeError(f"trace: {name} has shape {tuple(shape)}, expected ({said}) of a {d_out} x {d_in} module")
        return (match[2], shape[table[match[1]].index("r")]) if "r" in table[match[1]] else None
    raise ConfigError(f"trace: {name} is no name of the format; FORMAT.md lists them")


class Trace:
    """A trace: tensors on demand, as float64 (or int64) host arrays; `read` says which were asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such folder. Give the folder of a trace")
        manifest = Manifest.read(self.folder)
        if not (self.folder / TENSORS).is_file():
            raise CheckpointError(f"{folder}: there is no {TENSORS}. Record the trace again")
        self._hold(manifest, read_tensors(read_header(inside(self.folder, TENSORS))[0]))

    @classmethod
    def of(cls, manifest: Manifest, tensors: Mapping[str, Array], folder: str = "adapter") -> Trace:
        """A trace that lies in memory."""
        trace = cls.__new__(cls)
        trace.folder = Path(folder)
        trace._hold(manifest, dict(tensors))
        return trace

    def _hold(self, manifest: Manifest, tensors: dict[str, Array]) -> None:
        self.manifest, self.shapes, self._tensors = manifest, manifest.shapes(), tensors
        self.read: set[str] = set()
        ranks: dict[str, tuple[int, str]] = {}
        for name, tensor in tensors.items():
            try:
                found = check_name(name, tensor.shape, self.shapes)
            except (ConfigError, ShapeError) as error:
                raise CheckpointError(f"{self.folder / TENSORS}: {error}") from error
            if name.startswith("rank/"):
                found = name.removeprefix("rank/"), int(self.get(name))
            if found is not None:
                first, where = ranks.setdefault(found[0], (found[1], name))
                if first != found[1]:
                    said = f"{name} is of rank {found[1]}, {where} of rank {first}"
                    raise CheckpointError(f"{self.folder / TENSORS}: {said}: they must agree")
        self._check_steps()

    def _check_steps(self) -> None:
        """The lists over the steps reach as far as the steps that are recorded."""
        last = max(self.numbered("train", "grad_B") + self.numbered("train", "B"), default=0)
        for name in ("train/loss", "train/lr"):
            if self.has(name) and len(self.get(name)) < last:
                said = f"{name} has {len(self.get(name))} entries, but step {last} is recorded"
                raise CheckpointError(f"{self.folder / TENSORS}: {said}")

    def names(self) -> list[str]:
        """All quantities that the trace holds."""
        return list(self._tensors)

    def has(self, name: str) -> bool:
        """Whether the trace holds this quantity."""
        return name in self._tensors

    def get(self, name: str) -> Array:
        """One quantity; CheckpointError if it is not there or not finite."""
        if name not in self._tensors:
            raise CheckpointError(f"{self.folder}: the trace holds no {name}")
        self.read.add(name)
        tensor = self._tensors[name]
        if tensor.dtype.kind in "iub":
            return np.asarray(tensor)
        check_finite(str(self.folder / TENSORS), name, tensor)
        return np.asarray(tensor, dtype=np.float64)

    def modules(self, prefix: str) -> list[str]:
        """The modules, in model order, that have a quantity of this prefix (`"A"`, `"sample/0/input"`, ...)."""
        return [m for m in self.shapes if self.has(f"{prefix}/{m}")]

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        """The numbers n for which `<prefix>/<n>/<suffix>...` is there (`"sample"`, `"train"`)."""
        pattern = re.compile(rf"{prefix}/(\d+)/{re.escape(suffix)}(/.*)?")
        return sorted({int(m[1]) for m in map(pattern.fullmatch, self._tensors) if m})
