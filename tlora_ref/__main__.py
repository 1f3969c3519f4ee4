"""The command `tlora-ref`, also as `python -m tlora_ref`."""

import io
import sys

from tlora_ref.machine import prepare


def print_any_text() -> None:
    """A console of few characters (Windows' cp1252, LANG=C) shows what it lacks as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Prepare the process, and only then import NumPy with the commands."""
    print_any_text()
    prepare()
    from tlora_ref.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
