"""The command `tlora-ref`, also as `python -m tlora_ref`."""

from tlora_ref.machine import prepare


def main() -> None:
    """Prepare the process, and only then import NumPy with the commands."""
    prepare()
    from tlora_ref.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
