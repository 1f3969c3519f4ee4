"""Reading safetensors without trusting them: every length, offset, shape and path is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import CheckpointError

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
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MEND = "Copy or download the file again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file: `start` counts from the beginning of the file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata, all checked against the file's length.

    Raises
    ------
    CheckpointError
        saying what is wrong with the file and how to mend it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{path}: no safetensors file, or a truncated one: it is {size} bytes long and its header claims "
                    f"{length if size >= 8 else 'none'}. {MEND}"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is not valid JSON ({error}). {MEND}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not a JSON object. {MEND}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: the safetensors metadata is not a JSON object. {MEND}")
    entries = {name: _entry(path, name, value, 8 + length, size) for name, value in header.items()}
    _no_overlap(path, entries)
    return entries, {str(k): str(v) for k, v in metadata.items()}


def _entry(path: Path, name: str, value: Any, data_start: int, size: int) -> Entry:
    """One checked entry of the header."""
    where = f'{path}: tensor "{name}"'
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets, found {value!r:.100}. {MEND}")
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{where} is of dtype {value['dtype']!r:.40}: supported are {', '.join(DTYPES)}. Convert the checkpoint"
        )
    dtype = DTYPES[value["dtype"]]
    for key in ("shape", "data_offsets"):
        numbers = value[key]
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise CheckpointError(f"{where}: {key} is {numbers!r:.100}, expected a list of sizes. {MEND}")
    shape, offsets = tuple(value["shape"]), value["data_offsets"]
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{where}: shape {shape} of {value['dtype']} needs {math.prod(shape) * dtype.itemsize} bytes, but its "
            f"data_offsets are {offsets}. {MEND}"
        )
    if data_start + offsets[1] > size:
        raise CheckpointError(
            f"{where} ends at byte {data_start + offsets[1]}, but the file has {size}: it is truncated. {MEND}"
        )
    return Entry(path, dtype, shape, data_start + offsets[0])


def _no_overlap(path: Path, entries: Mapping[str, Entry]) -> None:
    """Two tensors never share bytes."""
    ordered = sorted(entries.items(), key=lambda item: item[1].start)
    for (name, entry), (other, next_entry) in pairwise(ordered):
        if entry.start + math.prod(entry.shape) * entry.dtype.itemsize > next_entry.start:
            raise CheckpointError(f'{path}: tensors "{name}" and "{other}" overlap. {MEND}')


def read_tensor(entry: Entry) -> Array:
    """The tensor as a read-only view of the memory-mapped file: nothing is read before it is used."""
    if math.prod(entry.shape) == 0:
        return np.empty(entry.shape, dtype=entry.dtype)
    mapped = np.memmap(entry.path, dtype=np.uint8, mode="r", offset=entry.start, shape=(_bytes(entry),))
    return mapped.view(entry.dtype).reshape(entry.shape)


def _bytes(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize


def inside(folder: Path, name: object) -> Path:
    """`folder / name`, refused if it leads out of the folder (by "..", an absolute path or a symbolic link)."""
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder}: {name!r} is not a file name")
    path = folder / name
    if Path(name).name != name or not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f'{folder}: "{name}" leads out of the folder; a checkpoint\'s files must lie inside it')
    return path


def read_folder(folder: Path, stem: str = "model") -> dict[str, Entry]:
    """All tensors of a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards.

    Raises
    ------
    CheckpointError
        if neither is there (pickled weights are never read), a shard is missing or leads out of the folder, or the
        index and the shards disagree.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        return _read_shards(folder, index)
    if single.exists() or single.is_symlink():
        return read_header(inside(folder, single.name))[0]
    pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
    hint = (
        f"It holds {pickled[0]}, which is a pickle and is never read: load the model with transformers and save it "
        "with safe_serialization=True"
        if pickled
        else "Is this the folder of a Hugging Face checkpoint?"
    )
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
            raise CheckpointError(f"{index} names the shard {name}, which is not in the folder. {MEND}")
        for tensor, entry in read_header(shard)[0].items():
            if tensor in entries:
                raise CheckpointError(f'{folder}: tensor "{tensor}" is in two shards. {MEND}')
            entries[tensor] = entry
    for tensor, file in weight_map.items():
        if tensor not in entries or entries[tensor].path.name != file:
            raise CheckpointError(f'{index}: tensor "{tensor}" is not in {file}, where the index puts it. {MEND}')
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a CheckpointError that says what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file. Is this the folder of a checkpoint?") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}). {MEND}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def iterate(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Array]]:
    """(name, tensor) of all entries, each mapped when it is reached."""
    for name, entry in entries.items():
        yield name, read_tensor(entry)
