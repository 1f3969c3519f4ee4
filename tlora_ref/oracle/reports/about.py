"""What a report says of its two sides and of the judge: digests, versions, and from where."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tlora_ref.provenance import provenance


def about(golden: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"golden": facts, "candidate": facts, "judge": versions and machine}."""
    return {"golden": dict(golden), "candidate": dict(candidate), "judge": provenance()}


def side(folder: str | Path, *names: str, **known: Any) -> dict[str, Any]:
    """Facts of a folder: where it is, the SHA-256 of those of its files that are there, and what else is known."""
    found = {name: Path(folder) / name for name in names}
    digests = {name: file_digest(path) for name, path in found.items() if path.is_file()}
    return {"folder": str(folder), "sha256": digests, **known}


def code(implementation: object, functions: Iterable[str]) -> dict[str, Any]:
    """Facts of an implementation in Python: its name, and the files that these functions of it are written in."""
    named = implementation if inspect.ismodule(implementation) else type(implementation)
    name = named.__name__ if inspect.ismodule(named) else f"{named.__module__}.{named.__qualname__}"
    files = set()
    for function in functions:
        with contextlib.suppress(TypeError):  # built in, or an object that is called
            files.add(inspect.getsourcefile(inspect.unwrap(getattr(implementation, function))))
    found = {file: Path(file) for file in sorted(filter(None, files))}  # None: typed at a prompt
    return {"name": name, "sha256": {file: file_digest(path) for file, path in found.items() if path.is_file()}}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as rows: ("golden, sha256, trace.safetensors", "5e0c...")."""
    for name, value in values.items():
        where = f"{before}, {name}" if before else name
        if isinstance(value, Mapping):
            yield from facts(value, where)
        elif value not in (None, ""):
            yield where, value
