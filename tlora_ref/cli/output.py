"""What commands leave beside their results, and what they refuse to write over."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from tlora_ref.checkpoint import check_output
from tlora_ref.data import file_sha256
from tlora_ref.errors import CheckpointError, ConfigError, OutputError, reason
from tlora_ref.files import parse_json, read_yaml, write_text
from tlora_ref.provenance import provenance

#: Where a command notes the flags that do nothing in this call: {name, ...} in the context's `meta`.
UNUSED = "tlora_ref.unused"
CONFIG_FILE, MANIFEST_FILE = "config.yaml", "manifest.json"


def check_folder(out: Path, *, overwrite: bool = False, replace: bool = False, **inputs: Path | None) -> None:
    """`out` can be written (see `check_output`), and none of the command's inputs is it or lies in it."""
    for flag, path in inputs.items():
        if path is not None and (path.resolve() == out.resolve() or out.resolve() in path.resolve().parents):
            raise OutputError(f"{out}: the {flag} of this command ({path}) is there. Choose another folder for --out")
    check_output(out, overwrite=overwrite, replace=replace)


def check_file(path: Path | None, flag: str) -> None:
    """A file that will be written at the end can be: its folder is there, and nothing but a file has its name."""
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{flag} {path}: is a folder. Give the name of a file")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise OutputError(f"{flag} {path}: its folder does not exist or cannot be written. Make it, or choose another")


def resolved(context: typer.Context) -> dict[str, Any]:
    """What config.yaml holds: every flag of this command that does something, spelled as on the command line.

    But for --resume: the results are those of a run that was never stopped, and so is the file that repeats it.
    """
    flags: dict[str, Any] = {}
    unused = {"config", "json", "full", "resume", *context.meta.get(UNUSED, ())}
    for parameter in context.command.params:
        if parameter.name in context.params and parameter.name not in unused:
            flags[parameter.opts[0].lstrip("-")] = context.params[parameter.name]
    plain = {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in flags.items()}
    return {k: v for k, v in plain.items() if v is not None and v != []}


def write_beside(folder: Path, context: typer.Context, facts: Mapping[str, Any] | None = None) -> None:
    """The resolved flags, and the manifest if there are `facts`, in a folder of results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG_FILE, yaml.safe_dump(resolved(context), sort_keys=False))
        if facts is not None:
            write_text(folder / MANIFEST_FILE, json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({reason(error)})") from error


def read_beside(folder: Path, context: typer.Context, *, free: frozenset[str]) -> dict[str, Any]:
    """The manifest of the run in `folder`, whose flags must be those of this command but for the `free` ones."""
    absent = next((name for name in (CONFIG_FILE, MANIFEST_FILE) if not folder.joinpath(name).is_file()), None)
    if absent is not None:
        raise CheckpointError(f"{folder}: no run to resume: there is no {absent}. Start one without --resume")
    try:
        then = read_yaml(folder / CONFIG_FILE)
        facts = parse_json((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST_FILE}: damaged ({reason(error)}). Start the run again") from error
    if not isinstance(then, dict) or not isinstance(facts, dict):
        raise CheckpointError(f"{folder}: {CONFIG_FILE} or {MANIFEST_FILE} is damaged. Start the run again")
    now = resolved(context)
    for key in dict.fromkeys([*then, *now]):
        if key not in free and then.get(key) != now.get(key):
            raise ConfigError(
                f"{folder} holds a run with --{key} {then.get(key)}, not {now.get(key)}: resume with the same flags "
                f"(they are in {folder / CONFIG_FILE}), or start a new run"
            )
    return facts


def clear_run(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what an earlier run left under these names, so that nothing of it can be taken for the new run's."""
    for name in names:
        path = folder.joinpath(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def command_line(context: typer.Context) -> list[str]:
    """The command as it was given."""
    given = context.find_root().obj
    return ["tlora-ref", *(given if isinstance(given, list) else sys.argv[1:])]


def resume_line(context: typer.Context) -> str:
    """The command that goes on with this one's run."""
    words = [word for word in command_line(context) if word not in ("--overwrite", "--resume")]
    return shlex.join([*words, "--resume"])


def manifest(context: typer.Context, **facts: Any) -> dict[str, Any]:
    """What is needed to run the same again: the command, `provenance()`, and `facts`."""
    return {"command": command_line(context), **provenance(), **facts}


def data_facts(file: Path) -> dict[str, Any]:
    """A data file by name and digest."""
    return {"file": str(file), "sha256": file_sha256(file)}
