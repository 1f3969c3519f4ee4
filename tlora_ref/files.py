"""Files that are whole or not there, whatever ends the process; and folders that one process at a time writes into.

What is being written has a temporary name beside its own, `.NAME.HOST-PID.RANDOM`, and is renamed when it is whole. A
process that is killed leaves its temporary behind; the next one that writes the same name sees that the process is gone
and clears it.

A folder that replaces another changes names with it at one stroke, where the system can do that (Linux). Elsewhere the
old one has a name that ends in `.old` for the moment between two renames: after a kill in that moment it comes back
when it is next written or read.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml
from filelock import FileLock, Timeout

from tlora_ref.errors import ConfigError, OutputError, reason

#: In a folder that a process is writing into.
LOCK_FILE = ".lock"
#: Ends the name of a folder between two renames: it was whole.
SET_ASIDE = ".old"
#: Linux's numbers for renameat2: paths are relative to the working directory; the two change names.
AT_FDCWD, RENAME_EXCHANGE = -100, 2
#: More digits than this no number in a JSON file has.
MAX_DIGITS = 100


def temporary(target: Path) -> Path:
    """A name beside `target` for what will become it. What dead processes left under such names goes."""
    clear_leftovers(target)
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}.{secrets.token_hex(4)}")


def clear_leftovers(target: Path) -> None:
    """Remove temporaries of `target` whose process is gone; another machine's stay, its processes are not seen.

    What that process had only set aside comes back, if nothing took its place.
    """
    ours = re.compile(rf"\.{re.escape(target.name)}\.{re.escape(_host())}-(\d+)\.[0-9a-f]+(\{SET_ASIDE})?")
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        found = ours.fullmatch(path.name)
        if found is not None and not psutil.pid_exists(int(found[1])):
            if found[2] and not target.exists():
                path.rename(target)
            else:
                removed(path)


def recovered(target: Path) -> Path:
    """`target`; where it is not there and a dead process had set it aside, it comes back first."""
    with contextlib.suppress(OSError):  # in a folder that takes no writing it stays where it is
        if not target.exists():
            clear_leftovers(target)
    return target


def exchanged(one: Path, other: Path) -> bool:
    """Whether two paths of one file system have changed names, with no moment in between; False where the system, or
    its C library, cannot do that, and nothing is changed then."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):  # another C library than glibc since 2.28
        return False
    return bool(rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def removed(path: Path) -> None:
    """Whatever `path` is, it goes, as far as the system lets it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"


class _Plain(yaml.SafeLoader):
    """YAML without aliases, a few hundred bytes of which stand for gigabytes, and without one key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read: write the value out")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        words = [key.value for key in keys]
        twice = next((key for i, key in enumerate(keys) if key.value in words[:i]), None)
        if twice is not None:
            line = twice.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: the key {twice.value!r} is there twice: keep one")
        return node


def read_yaml(path: Path) -> Any:
    """What a YAML file says, in Python's plain types; ConfigError where it cannot be read."""
    try:
        values = _Plain(path.read_text(encoding="utf-8")).get_single_data()  # a SafeLoader: no tag runs code
        _check_texts(values)
        return values
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({reason(error)})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date that is none
        raise ConfigError(f"{path}: not valid YAML ({reason(error)})") from error


def _check_texts(value: Any) -> None:
    """ValueError for a text that no path can be and nothing can print: YAML's escapes can say such."""
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is an UnicodeEncodeError
        if "\0" in value:
            raise ValueError(f"{value!r:.60} has a NUL in it")
    for entry in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
        _check_texts(entry)


def parse_json(text: str) -> Any:
    """What JSON says; ValueError for all that is none, however it fails: nesting without end, half a surrogate pair,
    which nothing could print, and whole numbers that no float holds."""
    try:
        values = json.loads(text, parse_int=_whole_number)
        json.dumps(values, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return values


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name to write a file under, which becomes `path` if all went well and is gone if not."""
    new = temporary(path)
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A UTF-8 file, old or new at any moment. OSError as the system gives it."""
    with beside(path) as new:
        new.write_text(text, encoding="utf-8")


def json_text(values: Any) -> str:
    """JSON for machines. It has no infinity and no NaN: null stands for them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(values), indent=2, allow_nan=False)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, for this process alone; a killed process's claim ends with it.

    Raises
    ------
    OutputError
        if another process is writing into it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(
            f"{folder}: another run is writing into this folder now. Wait for its end, or choose another folder"
        ) from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({reason(error)})") from error
    try:
        yield
    finally:
        if os.name == "nt":  # an open file stays there
            lock.release()
        (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # made for nothing, if a command was refused after all
            folder.rmdir()
