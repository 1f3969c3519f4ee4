"""`python -m tlora_ref` is the command `tlora-ref`."""

from tlora_ref.cli.main import main

if __name__ == "__main__":
    main()
