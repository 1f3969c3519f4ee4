"""Reading safetensors without trusting them: every length, offset, shape and path is checked before it is used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tlora_ref.backend import Array
from tlora_ref.checkpoint.hub import other_weights
from tlora_ref.checkpoint.mapping import MappedFile, Stamp, stamp_of
from tlora_ref.errors import CheckpointError, reason
from tlora_ref.files import parse_json

#: The safetensors format's own limit on the length of a header, in bytes.
MAX_HEADER = 100_000_000

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
#: More axes than this no tensor has, and NumPy not many more.
MAX_AXES = 32
#: More characters than this a file's name cannot have.
MAX_NAME = 250
MEND = "Copy or download the file again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file: `start` counts from the beginning of the file, which has this stamp."""

    path: Path
    stamp: Stamp
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata, all checked against the file's length.

    Raises
    ------
    CheckpointError
        saying what is wrong with the file and how to mend it.
    """
    text, stamp = _header_text(path)
    data_start, size = 8 + len(text), stamp[2]
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is not valid JSON ({reason(error)}). {MEND}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not a JSON object. {MEND}")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: the safetensors metadata is not a JSON object. {MEND}")
    entries = {name: _entry(path, stamp, name, value, data_start) for name, value in header.items()}
    _no_overlap_no_gap(path, entries, data_start, size)
    return entries, {str(k): str(v) for k, v in metadata.items()}


def _header_text(path: Path) -> tuple[bytes, Stamp]:
    """The header's bytes and the file's stamp: a file is 8 bytes of the header's length, header, data."""
    try:
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such file")
        with path.open("rb") as file:
            stamp = stamp_of(os.fstat(file.fileno()))
            size = stamp[2]
            length = int.from_bytes(file.read(8), "little")
            if size < 8:
                raise CheckpointError(f"{path}: {size} bytes are too few for a safetensors file: truncated. {MEND}")
            if length > MAX_HEADER:
                raise CheckpointError(
                    f"{path}: no safetensors file: its header claims {length} bytes, more than the format's limit of "
                    f"{MAX_HEADER}. {MEND}"
                )
            if length > size - 8:
                raise CheckpointError(
                    f"{path}: truncated, or no safetensors file: its header claims {length} bytes, but only "
                    f"{size - 8} follow. {MEND}"
                )
            return file.read(length), stamp
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different: which of two tensors of one name counts would be a guess."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice)} is there twice")
    return values


def shown(name: str) -> str:
    """A name from a file as an error message may print it: short, quoted, control characters escaped."""
    return json.dumps(name[:100])


def _entry(path: Path, stamp: Stamp, name: str, value: Any, data_start: int) -> Entry:
    """One checked entry of the header."""
    size = stamp[2]
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets, found {value!r:.100}. {MEND}")
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        few = isinstance(value["dtype"], str) and value["dtype"].startswith(("F8_", "F4", "F6_"))
        raise CheckpointError(
            f"{where} is of dtype {value['dtype']!r:.40}{', that of quantised weights' * few}: supported are "
            f"{', '.join(DTYPES)}. Save the model {'dequantised' if few else 'in one of them'}"
        )
    dtype = DTYPES[value["dtype"]]
    for key in ("shape", "data_offsets"):
        numbers = value[key]
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise CheckpointError(f"{where}: {key} is {numbers!r:.100}, expected a list of sizes. {MEND}")
    shape, offsets = tuple(value["shape"]), value["data_offsets"]
    if len(shape) > MAX_AXES or math.prod(n for n in shape if n) * dtype.itemsize >= 2**62:
        raise CheckpointError(f"{where}: no array has the shape {value['shape']!r:.100}. {MEND}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{where}: shape {shape} of {value['dtype']} needs {math.prod(shape) * dtype.itemsize} bytes, but its "
            f"data_offsets are {offsets}. {MEND}"
        )
    if data_start + offsets[1] > size:
        raise CheckpointError(
            f"{where} ends at byte {data_start + offsets[1]}, but the file has {size}: it is truncated. {MEND}"
        )
    return Entry(path, stamp, dtype, shape, data_start + offsets[0])


def _no_overlap_no_gap(path: Path, entries: Mapping[str, Entry], data_start: int, size: int) -> None:
    """The tensors lie one after the other and fill the file, as the format asks."""
    end, before = data_start, None
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start < end:
            raise CheckpointError(f"{path}: tensors {shown(str(before))} and {shown(name)} overlap. {MEND}")
        if entry.start > end:
            raise CheckpointError(
                f"{path}: {entry.start - end} bytes before tensor {shown(name)} belong to no tensor. {MEND}"
            )
        end, before = entry.start + entry.nbytes, name
    if end < size:
        raise CheckpointError(f"{path}: the last {size - end} bytes belong to no tensor. {MEND}")


def read_tensors(entries: Mapping[str, Entry]) -> dict[str, Array]:
    """The tensors as read-only views of their memory-mapped files: nothing is read before it is used. What copies one
    does so inside `mapping.unchanged`.

    A file is mapped once, however many tensors it has: every mapping costs a file descriptor.
    """
    maps: dict[Path, Array] = {}
    tensors = {}
    for name, entry in entries.items():
        if entry.nbytes == 0:
            tensors[name] = np.empty(entry.shape, dtype=entry.dtype)
            continue
        if entry.path not in maps:
            mapped = MappedFile.of(entry.path, entry.stamp)
            maps[entry.path] = np.ndarray((len(mapped),), dtype=np.uint8, buffer=mapped)
        raw = maps[entry.path][entry.start : entry.start + entry.nbytes]
        tensors[name] = raw.view(entry.dtype).reshape(entry.shape)
    return tensors


def check_finite(where: str, name: str, tensor: Array) -> None:
    """No NaN, no infinity: a CheckpointError that counts them otherwise."""
    bad = tensor.size - int(np.count_nonzero(np.isfinite(tensor)))
    if bad:
        raise CheckpointError(
            f"{where}: tensor {shown(name)} holds {bad} value(s) that are NaN or infinite (of {tensor.size}, as "
            f"{tensor.dtype}). The file is damaged or comes from a run that diverged"
        )


def inside(folder: Path, name: object) -> Path:
    """`folder / name`, refused if it leads out of the folder: by "..", an absolute path or a symbolic link.

    One layout of links is known, that of Hugging Face's download cache (see `_rooms`).
    """
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder}: {name!r:.100} is not a file name")
    path = folder / name
    plain = len(name) < MAX_NAME and "\0" not in name and Path(name).name == name
    if not plain or not any(path.resolve().is_relative_to(room) for room in _rooms(folder.resolve())):
        raise CheckpointError(
            f"{folder}: {shown(name)} leads out of the folder. A checkpoint's files must lie directly in it: copy the "
            "file there"
        )
    return path


def _rooms(root: Path) -> list[Path]:
    """Where the files of a folder may lie: in it; and, below `<repository>/snapshots/<commit>/` of a download cache, at
    any depth, in that snapshot and in the repository's `blobs/`, where the cache keeps every file by its hash."""
    parts = root.parts
    marks = [i for i, part in enumerate(parts[:-1]) if part == "snapshots" and i > 0]
    if not marks:
        return [root]
    repository, commit = Path(*parts[: marks[-1]]), parts[marks[-1] + 1]
    if repository.name.startswith(("models--", "datasets--")):
        return [root, repository]
    return [root, repository / "blobs", repository / "snapshots" / commit]


def read_folder(folder: Path, stem: str = "model") -> dict[str, Entry]:
    """All tensors of a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards.

    Raises
    ------
    CheckpointError
        if neither is there (pickled weights are never read), a shard is missing or leads out of the folder, or the
        index and the shards disagree.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.exists() or single.is_symlink():  # first, as in transformers, where both are there
        return read_header(inside(folder, single.name))[0]
    if index.is_file():
        return _read_shards(folder, inside(folder, index.name))
    other = other_weights([path.name for path in folder.iterdir()], stem)
    hint = "Is this the folder of a Hugging Face checkpoint?" if other is None else f"I{other[1:]}"
    raise CheckpointError(f"{folder}: there is no {single.name} and no {index.name}. {hint}")


def _read_shards(folder: Path, index: Path) -> dict[str, Entry]:
    values = read_json(index)
    weight_map = values.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f'{index}: "weight_map" is missing: expected {{tensor name: shard file}}. {MEND}')
    entries: dict[str, Entry] = {}
    for name in sorted({str(file) for file in weight_map.values()}):
        shard = inside(folder, name)
        if not shard.is_file():
            raise CheckpointError(f"{index} names the shard {shown(name)}, which is not in the folder. {MEND}")
        for tensor, entry in read_header(shard)[0].items():
            if tensor in entries:
                first = entries[tensor].path.name
                raise CheckpointError(f"{folder}: tensor {shown(tensor)} is in two shards, {first} and {name}. {MEND}")
            entries[tensor] = entry
    for tensor, file in weight_map.items():
        if tensor not in entries or entries[tensor].path.name != file:
            raise CheckpointError(f"{index}: tensor {shown(tensor)} is not in {file}, where the index puts it. {MEND}")
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that says what is wrong with it."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file. Is this the folder of a checkpoint?") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({reason(error)}). {MEND}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
