"""The commands by name: each is imported when it is called, because all of them together take a second to import."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lazy_loader
import typer
from typer.core import TyperCommand, TyperGroup

from tlora_ref.cli.stopping import told
from tlora_ref.cli.usage import Command, UsageError, one_line
from tlora_ref.errors import ConfigError

#: Each is a file of this folder with a function `run`; in the order in which a newcomer needs them.
COMMANDS = (
    "demo",
    "plan",
    "preview",
    "init",
    "train",
    "eval",
    "generate",
    "chat",
    "merge",
    "export",
    "trace",
    "verify",
    "check",
    "study",
    "report",
    "explain",
)
_module, _, _ = lazy_loader.attach("tlora_ref.cli", COMMANDS)
HELP_FLAGS = {"help_option_names": ["-h", "--help"]}


def markup() -> Any:
    """Boxes only for people."""
    return "rich" if sys.stdout.isatty() else None


class Commands(Mapping[str, Any]):
    """{name: command}, each imported when it is first asked for, and kept."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS  # Mapping's own would import it


class LazyGroup(TyperGroup):
    """All commands. Its help lists them by what stands in their files, and imports none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Commands()  # type: ignore[assignment]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # its help
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            said = one_line(error).rstrip(".")
            raise ConfigError(f"{said}: the command comes first, then its flags (`tlora-ref -h` lists them)") from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        commands, self.commands = self.commands, {name: TyperCommand(name, help=summary(name)) for name in COMMANDS}
        try:
            super().format_help(ctx, formatter)
        finally:
            self.commands = commands


@functools.cache
def _command(name: str) -> Any:
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=markup(), context_settings=HELP_FLAGS
    )
    app.command(name, cls=Command)(_interruptible(_module(name).run))
    return typer.main.get_command(app)


def summary(name: str) -> str:
    """The docstring of a command's `run`, read without importing it."""
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
    run = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    return ast.get_docstring(run) or ""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with Ctrl-C answered by a line and its exit status (`train` says more: it keeps its state)."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        if "context" in options:  # typer before 0.26 leaves text there for what it made a path
            context = options["context"]
            context.params.update({name: value for name, value in options.items() if name in context.params})
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as stop:
            what, status = told(stop)
            print(f"stopped by {what}: nothing was written", file=sys.stderr)
            raise typer.Exit(status) from None

    return wrapped
