"""Writes a trace: quantities under their names, checked as they come, the folder whole or not at all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tlora_ref.backend import Array, to_numpy
from tlora_ref.checkpoint.write import new_folder, write_json
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.scalars import unwrapped
from tlora_ref.oracle.traces.manifest import Manifest
from tlora_ref.oracle.traces.names import MANIFEST, TENSORS, axes_of, check_name, summary


class TraceWriter:
    """Collects the tensors of a trace under their names, checked, and writes the folder whole or not at all."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tensors: dict[str, Array] = {}
        self._shapes = manifest.shapes()

    def __repr__(self) -> str:
        return "\n".join([repr(self.manifest).replace("Manifest", "TraceWriter", 1), *summary(self.tensors)])

    def add(self, name: str, value: Any) -> None:
        """One quantity. ConfigError for a name that the format does not have, ShapeError for another shape."""
        array = np.array(to_numpy(value), order="C")  # a copy: the caller may go on changing it
        array = unwrapped(array, axes_of(name)[0])
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
