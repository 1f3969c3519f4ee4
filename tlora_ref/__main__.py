"""The command `tlora-ref`, also as `python -m tlora_ref`."""

from tlora_ref.kernel import choose_kernel


def main() -> None:
    """Choose the BLAS kernel, and only then import NumPy with the commands."""
    choose_kernel()
    from tlora_ref.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
