"""`--config FILE.yaml`: any of a command's flags, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from tlora_ref.cli.suggestions import ADVICE, COMMANDS_ELSEWHERE, flag_hint
from tlora_ref.cli.values import expected, value_of_file
from tlora_ref.cli.words import keys_of
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.files import read_yaml

#: The part of a file that holds for every command.
COMMON = "common"


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Values of a YAML file become the defaults of this command's flags; a flag that is given wins.

    The file holds flags; or parts, one a command and `common` for all of them, of which the command's own wins.
    """
    if path is None:
        return None
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected flags and their values, e.g. 'rank: 8'")
    command, commands = str(context.info_name), context.find_root().command.commands  # type: ignore[attr-defined]
    if any(isinstance(part, Mapping) and key in (COMMON, *commands) for key, part in values.items()):
        values = _parts(path, values, command, commands)
    known, takes = _keys(context.command), expected(context.command.callback)
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        parameter = known.get(_plain(str(key)))
        if parameter is None:
            hint = _key_hint(str(key), value, command, commands)
            raise ConfigError(f'{path}: unknown key "{key}" for this command: {hint}')
        if value is not None:
            name = str(parameter.name)
            defaults[name] = value_of_file(f'{path}: key "{key}"', value, takes[name])
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _parts(path: Path, values: Mapping[Any, Any], command: str, commands: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of parts says to one command. Every part is checked, so that a slip shows at the first command."""
    for name, part in values.items():
        if name != COMMON and name not in commands:
            hint = did_you_mean(str(name), (COMMON, *commands), COMMANDS_ELSEWHERE)
            raise ConfigError(f'{path}: unknown part "{name}": expected {COMMON} or the name of a command{hint}')
        if not isinstance(part, Mapping | None):
            raise ConfigError(f'{path}: part "{name}" holds {part!r:.60}, expected flags and their values')
    own = _keys(commands[command])
    readers = [name for name in values if name != COMMON] or [command]
    for name, part in values.items():
        known = {
            key for reader in ({command, *readers} if name == COMMON else {name}) for key in _keys(commands[reader])
        }
        for key in part or {}:
            if _plain(str(key)) not in known:
                hint = _key_hint(str(key), None, command if name == COMMON else str(name), commands)
                raise ConfigError(f'{path}, part "{name}": unknown key "{key}": {hint}')
    shared = {key: value for key, value in (values.get(COMMON) or {}).items() if _plain(str(key)) in own}
    mine = values.get(command) or {}
    spoken = {own[_plain(str(key))].name for key in mine}
    return {**{key: value for key, value in shared.items() if own[_plain(str(key))].name not in spoken}, **mine}


def _keys(command: Any) -> dict[str, Any]:
    """{a name that the file may use: the command's parameter}."""
    known = {_plain(spelling): p for p in command.params for spelling in (str(p.name), *p.opts)}
    return {name: parameter for name, parameter in known.items() if name not in ("config", "help", "h")}


def _plain(spelling: str) -> str:
    """One name for `--batch-size`, `batch-size` and `batch_size`."""
    return spelling.lstrip("-").replace("-", "_")


def _key_hint(key: str, value: Any, command: str, commands: Mapping[str, Any]) -> str:
    """What may have been meant by an unknown key: one that holds keys of its own may be a part."""
    repeated = [str(p.name) for p in commands[command].params if getattr(p, "multiple", False)]
    known = () if key.replace("_", "-") in ADVICE or not isinstance(value, Mapping) else (COMMON, *commands, *repeated)
    part = did_you_mean(key, known, COMMANDS_ELSEWHERE if known else None)
    return part.strip(" ()") or flag_hint(key, command, keys_of(commands), dashes="")
