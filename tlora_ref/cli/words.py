"""The words of a command line, looked at before they are parsed: for a flag or a command that is not there, what was
meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlora_ref.cli.suggestions import command_hint, flag_hint
from tlora_ref.errors import ConfigError


def flags_of(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{command: {flag, without dashes: its parameter}}."""
    return {name: _flags(command) for name, command in commands.items()}


def keys_of(commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`flags_of`, and the arguments, which a file names too."""
    arguments = {
        name: {str(p.name): p for p in command.params if p.param_type_name == "argument"}
        for name, command in commands.items()
    }
    return {name: {**arguments[name], **flags} for name, flags in flags_of(commands).items()}


def _flags(command: Any) -> dict[str, Any]:
    return {o.lstrip("-"): p for p in command.params for o in p.opts if o.startswith("-")}


def check_words(words: Sequence[str], commands: Mapping[str, Any]) -> None:
    """ConfigError for a command that is none of `commands`, or the first flag that the command has not."""
    if not words or words[0].startswith("-"):
        return
    command, *rest = words
    if command not in commands:
        raise ConfigError(f"there is no command {command}: {command_hint(command, list(commands))}")
    known = {"help": None, "h": None, **_flags(commands[command])}
    taken = 0  # values that the flag before still takes
    for word in rest:
        if taken:
            taken -= 1
        elif word == "--":
            return
        elif word.startswith("-") and not _is_number(word):
            name, equals, _ = word.lstrip("-").partition("=")
            if name not in known or (len(name) > 1 and not word.startswith("--")):
                given = word.partition("=")[0]
                raise ConfigError(f"{command} has no flag {given}: {flag_hint(name, command, flags_of(commands))}")
            parameter = known[name]
            has_value = parameter is not None and not getattr(parameter, "is_flag", False) and not equals
            taken = parameter.nargs if has_value and parameter is not None else 0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
