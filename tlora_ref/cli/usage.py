"""A command's words, parsed by typer; what typer refuses is told in one line, and in words of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from tlora_ref.cli.values import check_given, expected
from tlora_ref.errors import ConfigError

#: What typer raises for words that it cannot use: its own class, or, in older versions, click's.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
    """A command whose errors of usage are ConfigErrors."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        given: dict[str, Any] = {}
        try:
            given, left, _ = self.make_parser(ctx).parse_args(list(args))
            asks = self.get_help_option(ctx)
            if asks is None or not given.get(str(asks.name)):
                check_given(expected(self.callback), {str(p.name): written(p) for p in self.params}, given)
                check_left(self, left)
            return super().parse_args(ctx, args)
        except UsageError as error:
            raise ConfigError(self._said(ctx, given, error)) from None

    def invoke(self, ctx: Any) -> Any:
        """The command; where it refuses a flag that --config gave, it is told from which file that came."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            named = [name for name in ctx.default_map or {} if _is_named(name, str(error))]
            read = [n for n in named if (source := ctx.get_parameter_source(n)) and source.name == "DEFAULT_MAP"]
            if not read or ctx.params.get("config") is None:
                raise
            raise type(error)(f"{error} ({' and '.join(read)}: from {ctx.params['config']})") from error

    def _said(self, ctx: Any, given: Mapping[str, Any], error: Exception) -> str:
        missing = [p for p in self.params if p.required and not _is_there(p, given, ctx.default_map or {})]
        if missing and isinstance(error, typer.BadParameter):
            names = [written(p) for p in missing]
            said = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
            return (
                f"{self.name} needs {said}: `tlora-ref {self.name} -h` says what {'they are' if names[1:] else 'it is'}"
            )
        flag = getattr(error, "option_name", None)
        parameter = next((p for p in self.params if flag in p.opts), None)
        if parameter is not None and getattr(parameter, "is_flag", False):
            return f"{flag} takes no value: it stands alone"
        if parameter is not None:
            return f"{flag} needs a value after it: {expected(self.callback)[str(parameter.name)]}"
        return f"{self.name}: {one_line(error)}"


def check_left(command: Any, left: Sequence[str]) -> None:
    """ConfigError for words that belong to no flag and are more than the command's arguments."""
    arguments = [written(p) for p in command.params if p.param_type_name == "argument"]
    if left:
        takes = f"takes {' and '.join(arguments)} alone" if arguments else "takes flags alone"
        flag = "--data" if any("--data" in p.opts for p in command.params) and Path(left[0]).exists() else "--NAME"
        raise ConfigError(
            f"{command.name} {takes}: what is {left[0]}? Every other value follows its flag, {flag} {left[0]}"
        )


def written(parameter: Any) -> str:
    """How a parameter is written on a command line: --batch-size, MODEL."""
    return (
        parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.metavar or parameter.name).upper()
    )


def one_line(error: Exception) -> str:
    """What typer says of words that it cannot use, its first line."""
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    return str(said).strip().partition("\n")[0]


def _is_there(parameter: Any, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    return isinstance(given.get(parameter.name), str | list | tuple) or defaults.get(parameter.name) is not None


def _is_named(name: str, message: str) -> bool:
    """Whether a message is about this flag: by its name on the command line, or as the settings call it."""
    return f"--{name.replace('_', '-')} " in f"{message} " or f"{name} is " in message
