"""Files mapped into memory, and what tells whether they are still those that were checked.

A mapping holds on to its file: one that is replaced or removed is read as it was. One that is written to in place, as
`cp` does, changes under the reader, and one that is cut ends the process that touches what is gone. Both are looked for
before and after every tensor is copied: an error then, and no mixture of two files.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import CheckpointError

#: Which file it is, and by what it is seen to have been written to: device, number, bytes, nanoseconds.
Stamp = tuple[int, int, int, int]


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp of the file that was asked about."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class MappedFile(mmap.mmap):
    """A file's bytes, and the stamp that it had when its header was checked."""

    path: Path
    stamp: Stamp

    @classmethod
    def of(cls, path: Path, stamp: Stamp) -> MappedFile:
        """The file at `path`; CheckpointError if it cannot be read, or is not what it was."""
        try:
            with path.open("rb") as file:
                mapped = cls(file.fileno(), 0, access=mmap.ACCESS_READ)
                found = stamp_of(os.fstat(file.fileno()))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        if found != stamp:
            raise _written_to(path)
        mapped.path, mapped.stamp = path, stamp
        return mapped

    def check(self) -> None:
        """CheckpointError if the file was written to. One that was replaced or removed is still mapped as it was."""
        if self.size() == len(self):
            try:
                found = stamp_of(self.path.stat())
            except OSError:
                return
            if found[:2] != self.stamp[:2] or found == self.stamp:
                return
        raise _written_to(self.path)


def _written_to(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: was written to while it was read. Let the writer finish, and start again")


@contextmanager
def unchanged(tensor: Array) -> Iterator[None]:
    """For copying a tensor of a mapped file: CheckpointError if that was written to, or cut, since its header was read.
    An array of another kind is left alone."""
    owner = _owner(tensor)
    if isinstance(owner, MappedFile):
        owner.check()
    yield
    if isinstance(owner, MappedFile):
        owner.check()


def _owner(tensor: Array) -> Any:
    """What holds the memory that `tensor` is a view of, if not NumPy."""
    owner: Any = tensor
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner


def release(tensor: Array) -> None:
    """Let go of the memory that reading `tensor` and others of its file took: pages of a mapped file count as the
    process's own until then. They may be read again."""
    owner = _owner(tensor)
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        owner.madvise(mmap.MADV_DONTNEED)
