"""Reads a trace: quantities by name, in float64, checked against the manifest and each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.checkpoint.mapping import unchanged
from tlora_ref.checkpoint.reader import check_finite, inside, read_header, read_tensors, shown
from tlora_ref.errors import CheckpointError, ConfigError, ShapeError
from tlora_ref.files import recovered
from tlora_ref.oracle.scalars import LARGEST, unwrapped, usable
from tlora_ref.oracle.traces.manifest import Manifest
from tlora_ref.oracle.traces.names import SAMPLE_FIELDS, TENSORS, axes_of, check_name, summary


class Trace:
    """A trace: tensors on demand, as float64 (or int64) host arrays; `read` says which were asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = recovered(Path(folder))
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
        self.manifest, self.shapes, self._tensors = manifest, manifest.shapes(), {}
        self.read: set[str] = set()
        ranks: dict[str, tuple[int, str]] = {}
        for name, tensor in tensors.items():
            try:
                self._tensors[name] = unwrapped(tensor, axes_of(name)[0])
                found = check_name(name, self._tensors[name].shape, self.shapes)
            except (ConfigError, ShapeError) as error:
                raise CheckpointError(f"{self.folder / TENSORS}: {error}") from error
            if name.startswith("rank/") and np.isfinite(self._tensors[name]):
                found = name.removeprefix("rank/"), int(self._tensors[name])
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
            if self.has(name) and len(self._tensors[name]) < last:
                said = f"{name} has {len(self._tensors[name])} entries, but step {last} is recorded"
                raise CheckpointError(f"{self.folder / TENSORS}: {said}")

    def __repr__(self) -> str:
        said = repr(self.manifest).replace("Manifest", f"Trace {self.folder}", 1)
        return "\n".join([said, *summary(self._tensors)])

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
        with unchanged(tensor):
            check_finite(str(self.folder / TENSORS), name, tensor)
            if not usable(tensor).all():
                said = (
                    f"tensor {shown(name)} holds {np.abs(tensor).max():.3g}, and nothing in a run is beyond {LARGEST:g}"
                )
                raise CheckpointError(f"{self.folder / TENSORS}: {said}: the file is damaged")
            return np.asarray(tensor, dtype=np.float64)

    def not_finite(self) -> dict[str, tuple[tuple[int, ...], float]]:
        """{name: the first place, and what stands there} of every quantity that holds a NaN, an infinity, or what is as
        good as one (LARGEST)."""
        found = {}
        for name, tensor in self._tensors.items():
            with unchanged(tensor):
                numbers = usable(tensor)
            if not numbers.all():
                index = tuple(int(i) for i in np.argwhere(~numbers)[0])
                found[name] = index, float(tensor[index])
        return found

    def without(self, names: Collection[str]) -> Trace:
        """The trace without these quantities."""
        return Trace.of(self.manifest, {n: x for n, x in self._tensors.items() if n not in names}, str(self.folder))

    def modules(self, prefix: str) -> list[str]:
        """The modules, in model order, that have a quantity of this prefix (`"A"`, `"sample/0/input"`, ...)."""
        return [m for m in self.shapes if self.has(f"{prefix}/{m}")]

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        """The numbers n for which `<prefix>/<n>/<suffix>...` is there (`"sample"`, `"train"`)."""
        pattern = re.compile(rf"{prefix}/(\d+)/{re.escape(suffix)}(/.*)?")
        return sorted({int(m[1]) for m in map(pattern.fullmatch, self._tensors) if m})

    # ---- what the run was made on, as a model takes it ----

    def samples(self) -> Iterator[dict[str, Array]]:
        """The calibration samples, as a model's arguments: int64, writable, (1, T), a class (1,)."""
        for n in range(self.manifest.samples):
            yield {name: x[None] for name, x in self._fields(f"sample/{n}")}

    def batches(self) -> Iterator[tuple[int, float, dict[str, Array]]]:
        """(step from 1, learning rate, the padded batch as a model's arguments: int64, writable) of every step."""
        for t in self.numbered("train", "input_ids"):
            yield t, float(self.get("train/lr")[t - 1]), dict(self._fields(f"train/{t}"))

    def _fields(self, prefix: str) -> Iterator[tuple[str, Array]]:
        for name in SAMPLE_FIELDS:
            if self.has(f"{prefix}/{name}"):
                yield name, np.array(self.get(f"{prefix}/{name}"), dtype=np.int64)
