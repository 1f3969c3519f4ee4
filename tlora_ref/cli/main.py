"""`tlora-ref`: the commands put together, and every error turned into one clear line and an exit status.

Exit status: 0 good, 1 checked and found wrong, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from tlora_ref.cli.checking import check
from tlora_ref.cli.making import init, merge
from tlora_ref.cli.planning import plan
from tlora_ref.cli.tracing import trace
from tlora_ref.cli.training import train
from tlora_ref.cli.using import evaluate, generate
from tlora_ref.cli.verifying import verify
from tlora_ref.errors import TLoRAError

app = typer.Typer(
    help="TLoRA (arXiv 2604.18124) in NumPy: plan, initialise, train, use, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # boxes only for people
    context_settings={"help_option_names": ["-h", "--help"]},
)


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with Ctrl-C answered by a line and exit status 130 (`train` says more: it keeps its state)."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            print("stopped by Ctrl-C: nothing was written", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


for name, command in (
    ("plan", plan),
    ("init", init),
    ("train", train),
    ("eval", evaluate),
    ("generate", generate),
    ("merge", merge),
    ("trace", trace),
    ("verify", verify),
    ("check", check),
):
    app.command(name)(interruptible(command))


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and exits; an expected error becomes one message on standard error."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=given, obj=given)
    except TLoRAError as error:
        message = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}. Mend that and run the command again"
    except MemoryError as error:
        message = f"not enough memory ({error}). Try --dtype float32, fewer --target or a smaller --batch-size"
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
