"""What a command imports before it does anything: what it does not need costs every user a part of a second."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
from typer.main import get_command

from tests.cli.conftest import Run
from tlora_ref.cli.commands import COMMANDS, Commands, summary
from tlora_ref.cli.main import app


def imported(code: str) -> set[str]:
    """The packages (and scipy's parts) that a new process has imported after `code`."""
    told = f"import sys\n{code}\nprint('IMPORTED', *sys.modules)"
    said = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout
    return set(said.rpartition("IMPORTED")[2].split())


def test_the_list_of_commands_needs_no_array() -> None:
    shown = "import tlora_ref.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit as end: assert not end.code"
    assert not imported(shown) & {"numpy", "scipy", "tlora_ref.cli.train", "jinja2"}


def test_no_command_imports_scipy_before_it_computes() -> None:
    everything = "\n".join(f"import tlora_ref.cli.{name}" for name in COMMANDS)
    found = imported(everything)
    assert "numpy" in found
    assert "scipy.special" not in found
    assert "scipy.stats" not in found


def test_a_command_imports_no_other() -> None:
    """Not even for a look at its flags, unless one is wrong."""
    shown = "import tlora_ref.cli.main as m\ntry: m.main(['plan', '-h'])\nexcept SystemExit as end: assert not end.code"
    found = imported(shown)
    assert "tlora_ref.cli.plan" in found
    assert not found & {"tlora_ref.cli.check", "tlora_ref.cli.explain", "tlora_ref.cli.study"}


def test_the_list_leaves_the_commands_as_they_were() -> None:
    group = get_command(app)
    assert "Commands" in group.get_help(group.make_context("tlora-ref", [], resilient_parsing=True))
    assert "--rank" in {flag for parameter in group.commands["plan"].params for flag in parameter.opts}


def test_ctrl_c_before_the_command_is_there_is_a_line(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tlora_ref.cli.main.check_words", pressed)
    status, said, error = run("plan", "model")
    assert (status, said, error) == (130, "", "stopped by Ctrl-C: nothing was written\n")


def test_help_says_of_each_command_what_its_function_says(run: Run) -> None:
    status, said, _ = run("--help")
    assert status == 0
    for name in COMMANDS:
        doc = inspect.getdoc(importlib.import_module(f"tlora_ref.cli.{name}").run)
        assert summary(name) == doc
        assert f"  {name} " in said
        assert " ".join(doc.split())[:20] in said
    assert list(Commands()) == list(COMMANDS)


def test_the_list_has_the_whole_summary_of_each_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns, as a pipe has them."""
    monkeypatch.setenv("COLUMNS", "80")
    said = run("--help")[1]
    assert max(map(len, said.splitlines())) <= 80
    for name in COMMANDS:
        line = next(line for line in said.splitlines() if line.startswith(f"  {name} "))
        assert line.split(maxsplit=1)[1] == summary(name).split("\n")[0], name
