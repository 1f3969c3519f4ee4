"""`tlora-ref`: the commands put together, and every error turned into one clear line and an exit status.

Exit status: 0 good, 1 checked and found wrong, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from tlora_ref.cli.making import init, merge
from tlora_ref.cli.planning import plan
from tlora_ref.cli.training import train
from tlora_ref.cli.using import evaluate, generate
from tlora_ref.errors import TLoRAError

app = typer.Typer(
    help="TLoRA (arXiv 2604.18124) in NumPy: plan, initialise, train, use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with Ctrl-C answered by a line that says how to go on, and exit status 130."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            print("stopped by Ctrl-C. `train` kept its state: the same command with --resume goes on", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


for name, command in (
    ("plan", plan),
    ("init", init),
    ("train", train),
    ("eval", evaluate),
    ("generate", generate),
    ("merge", merge),
):
    app.command(name)(interruptible(command))


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and exits; an expected error becomes one message on standard error."""
    try:
        app(args=arguments)
    except (TLoRAError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
