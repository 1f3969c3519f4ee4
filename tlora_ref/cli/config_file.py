"""`--config FILE.yaml`: any of a command's flags, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from tlora_ref.cli.suggestions import flag_hint
from tlora_ref.cli.words import flags_of
from tlora_ref.errors import ConfigError
from tlora_ref.files import read_yaml


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Values of a YAML file become the defaults of this command's flags; a flag that is given wins."""
    if path is None:
        return None
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected flags and their values, e.g. 'rank: 8'")
    known = {_plain(spelling): p for p in context.command.params for spelling in (str(p.name), *p.opts)}
    for not_a_flag in ("config", "help", "h"):
        known.pop(not_a_flag, None)
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        parameter = known.get(_plain(str(key)))
        if parameter is None:
            flags = flags_of(context.find_root().command.commands)  # type: ignore[attr-defined]
            hint = flag_hint(str(key), str(context.info_name), flags, dashes="")
            raise ConfigError(f'{path}: unknown key "{key}" for this command: {hint}')
        if value is not None:
            many = bool(getattr(parameter, "multiple", False))
            defaults[str(parameter.name)] = _value(path, str(key), value, many, parameter.nargs)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _plain(spelling: str) -> str:
    """One name for `--batch-size`, `batch-size` and `batch_size`."""
    return spelling.lstrip("-").replace("-", "_")


def _value(path: Path, key: str, value: Any, many: bool, entries: int) -> Any:
    """A YAML value as a flag takes it; one that may be repeated takes a list, or a mapping (`a: b` is a=b)."""
    if many:
        if isinstance(value, Mapping):
            return [f"{name}={text}" for name, text in value.items()]
        return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, list) and entries == len(value):
        return tuple(value)
    if isinstance(value, list | dict):
        expected = "one value" if entries == 1 else f"a list of {entries} values"
        raise ConfigError(f'{path}: key "{key}" holds {value!r:.60}, expected {expected}')
    return value
