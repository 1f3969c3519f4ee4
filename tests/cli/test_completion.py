"""A shell that completes: commands, and the flags of a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: The console script, by the name that the shell completes.
SCRIPT = "import sys; sys.argv[0] = 'tlora-ref'; from tlora_ref.__main__ import main; main()"


@pytest.mark.parametrize(
    ("words", "at", "expected"), [("tlora-ref tr", 1, {"train", "trace"}), ("tlora-ref report --ht", 2, {"--html"})]
)
def test_it_completes(words: str, at: int, expected: set[str]) -> None:
    asked = {"_TLORA_REF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.returncode == 0 and set(done.stdout.split()) == expected, done.stderr
