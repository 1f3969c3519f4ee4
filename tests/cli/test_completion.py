"""A shell that completes: commands, and the flags of a command."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        ("tlora-ref tr", 1, {"train", "trace"}),
        ("tlora-ref train --rank", 2, {"--rank", "--rank-floor"}),
        ("tlora-ref report --ht", 2, {"--html"}),
    ],
)
def test_it_completes(run: Run, monkeypatch: pytest.MonkeyPatch, words: str, at: int, expected: set[str]) -> None:
    monkeypatch.setattr("sys.argv", ["tlora-ref"])
    for name, value in (("_TLORA_REF_COMPLETE", "complete_bash"), ("COMP_WORDS", words), ("COMP_CWORD", str(at))):
        monkeypatch.setenv(name, value)
    status, out, _ = run()
    assert status == 0 and set(out.split()) == expected
