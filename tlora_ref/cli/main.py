"""`tlora-ref`: the commands put together, and every error turned into one clear line and an exit status.

Exit status: 0 good, 1 checked and found wrong, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from tlora_ref.cli.commands import HELP_FLAGS, Commands, LazyGroup, markup
from tlora_ref.cli.screen import linear_algebra_line, warn
from tlora_ref.cli.stopping import heed_sigterm, told
from tlora_ref.cli.words import check_words
from tlora_ref.errors import TLoRAError, reason
from tlora_ref.provenance import provenance

app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=markup(),
    context_settings=HELP_FLAGS,
)


def show_version(wanted: bool) -> None:
    """`--version`: what a report of a problem should begin with."""
    if wanted:
        facts = provenance()
        print(", ".join(f"{name} {facts[name]}" for name in ("tlora_ref", "python", "numpy", "scipy")))
        print(f"linear algebra: {linear_algebra_line()}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Versions and BLAS kernel, and exit")
    ] = False,
) -> None:
    """TLoRA (arXiv 2604.18124) in NumPy: plan, initialise, train, use, verify."""


def main(arguments: list[str] | None = None) -> None:
    """The console script: runs a command and exits; an expected error becomes one message on standard error."""
    given = sys.argv[1:] if arguments is None else arguments
    heed_sigterm()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: warn(str(message))
            check_words(given, Commands())
            app(args=given, obj=given)
    except TLoRAError as error:
        message = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{reason(error)}. Mend that and run the command again"
    except MemoryError as error:
        message = f"not enough memory ({reason(error)}). Try --dtype float32, a smaller --batch-size or --max-length"
    except KeyboardInterrupt as stop:  # before the command was there to answer
        what, status = told(stop)
        print(f"stopped by {what}: nothing was written", file=sys.stderr)
        sys.exit(status)
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
