"""The process that runs mutants in forks: what is killed, what survives, and what it leaves to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("coverage")
from tests.mutation.runner import EQUIVALENT, KILLED, SURVIVED

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
LIMIT = 3

def doubled(x):
    return [2 * each for each in x]

def unused(x):
    return x + 1

def sign(x):
    if x < 0:
        return -1
    return 1 - 0

class Counter:
    def count(self):
        return LIMIT + 1
"""
TESTS = """
import pytest
from module import Counter, doubled, sign

@pytest.fixture(scope="module", params=[1, 2])
def number(request, tmp_path_factory):
    with open("set_up", "a") as file:
        file.write(f"{request.param}")
    tmp_path_factory.mktemp(f"number{request.param}", numbered=False)
    return request.param

@pytest.fixture(scope="module")
def made(number):
    return doubled([number, number + 1])

def test_that_sets_the_fixture_up_and_does_not_look(made):
    pass

def test_that_looks(number, made, tmp_path):
    assert made == [number + number, number + number + 2]
    made.clear()

def test_count(tmp_path_factory):
    assert Counter().count() == 4
    tmp_path_factory.mktemp("my own", numbered=False)

def test_sign(number):
    assert sign(number) == 1
"""


@pytest.fixture
def runner(request: pytest.FixtureRequest, tmp_path: Path):
    """Answers to (function, old text, new text); its parameters are the patience and further tests."""
    patience, further = getattr(request, "param", ("", ""))
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text(TESTS + further)
    own = [str(tmp_path / "known.jsonl"), patience, "module.py"]
    command = [sys.executable, "-m", "tests.mutation.runner", *own, "--", "test_module.py"]
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, **pipes)
    assert process.stdin is not None and process.stdout is not None
    assert json.loads(process.stdout.readline()) == []

    def answer(function: str | None, old: str, new: str) -> str:
        source = MODULE.replace(old, new)
        assert source != MODULE
        changed = [i for i, line in enumerate(MODULE.splitlines(), start=1) if old in line]
        lines = [changed[0], changed[-1]]
        request = {"path": "module.py", "function": function, "lines": lines, "source": source}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    answer.folder = tmp_path
    yield answer
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_mutants_are_killed_by_the_tests_that_execute_them(runner) -> None:
    assert runner("doubled", "2 * each", "3 * each") == KILLED  # seen by a test that has the value from a fixture
    assert runner("doubled", "2 * each", "each + each") == SURVIVED
    assert runner("doubled", "2 * each", "(2 * each)") == EQUIVALENT
    assert runner("Counter.count", "+ 1", "- 1") == KILLED
    assert runner("Counter.count", "+ 1", "+ 2 - 1") == SURVIVED  # every fork begins with the original
    assert runner("unused", "x + 1", "x - 1") == SURVIVED
    assert runner("sign", "-1", "-2") == SURVIVED
    assert runner("sign", "1 - 0", "2 - 0") == KILLED


@pytest.mark.parametrize("runner", [("0.001", "")], indirect=True)
def test_a_patience_is_for_the_tests_together(runner) -> None:
    assert runner("Counter.count", "+ 1", "- 1") == SURVIVED  # no test is that quick


def test_a_mutant_outside_functions_is_imported(runner) -> None:
    assert runner(None, "LIMIT = 3", "LIMIT = 2") == KILLED
    assert runner(None, "LIMIT = 3", "LIMIT = 3.0") == SURVIVED
    assert (runner.folder / "module.py").read_text() == MODULE


def test_fixtures_are_set_up_once_but_where_they_execute_the_mutant(runner) -> None:
    set_up = runner.folder / "set_up"
    before = set_up.read_text()
    assert before == "12" * 2  # as the tests were measured, and for the forks
    assert runner("sign", "1 - 0", "1 - 0.0") == SURVIVED
    assert runner("doubled", "2 * each", "each + each") == SURVIVED  # `made` anew, not the number that it is made of
    assert set_up.read_text() == before


ONCE = """
def test_that_passes_once():
    from pathlib import Path
    assert Counter().count() and not Path("once").exists()
    Path("once").touch()
"""


@pytest.mark.parametrize("runner", [("", ONCE)], indirect=True)
def test_what_fails_in_a_fork_without_a_mutant_kills_none(runner) -> None:
    assert runner("doubled", "2 * each", "3 * each") == KILLED  # by another test
    assert runner("Counter.count", "+ 1", "+ 2 - 1") == ""  # the runner ends
