"""The loss curve: on a terminal, in its width, without colours where none are wanted; nowhere else."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from tlora_ref.cli.curves import show_losses
from tlora_ref.cli.screen import Screen

LOSSES = [{"step": step, "loss": 4.0 / step, **({"valid_loss": 3.0} if step % 5 == 0 else {})} for step in range(1, 31)]


def shown(capsys: pytest.CaptureFixture[str], *, terminal: bool, no_color: bool = False, width: int = 80) -> str:
    screen = Screen()
    screen.console = Console(force_terminal=terminal, no_color=no_color, width=width)
    screen.rich = terminal
    show_losses(screen, LOSSES)
    return capsys.readouterr().out


def test_it_is_drawn_in_the_terminals_width(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotext", reason="plotext: the extra `curves`")
    plain = shown(capsys, terminal=True, no_color=True, width=80)
    assert "\x1b" not in plain and max(map(len, plain.splitlines())) == 80
    assert "training" in plain and "held-out" in plain and "step" in plain and "4.00" in plain
    assert "\x1b" in shown(capsys, terminal=True)
    assert max(map(len, shown(capsys, terminal=True, no_color=True, width=200).splitlines())) == 100


def test_off_a_terminal_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, terminal=False) == ""


def test_without_plotext_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotext", None)
    assert "pip install 'tlora-ref[curves]'" in shown(capsys, terminal=True)
