"""`python -m tlora_ref.harness ...`: lm-evaluation-harness' own command line, which then knows the model tlora_ref."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs lm_eval with the arguments given."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError:
        sys.exit("error: lm-evaluation-harness is not installed: pip install 'tlora-ref[lm-eval]'")
    from tlora_ref.errors import TLoRAError
    from tlora_ref.harness import model  # noqa: F401  registers it

    try:
        cli_evaluate()
    except TLoRAError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
