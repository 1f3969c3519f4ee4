"""The process that runs mutants in forks: what is killed, what survives, and what it leaves to others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.runner import KILLED, SURVIVED, UNKNOWN

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
LIMIT = 3

def doubled(x):
    return [2 * each for each in x]

def unused(x):
    return x + 1

class Counter:
    def count(self):
        return LIMIT + 1
"""
TESTS = """
import pytest
from module import Counter, doubled

@pytest.fixture(scope="module")
def made():
    return doubled([1, 2])

def test_that_sets_the_fixture_up_and_does_not_look(made):
    pass

def test_that_looks(made):
    assert made == [2, 4]

def test_count():
    assert Counter().count() == 4
"""


@pytest.fixture
def runner(tmp_path: Path):
    """Answers to (function, old text, new text)."""
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "tests.mutation.runner",
        str(tmp_path / "known.json"),
        "module.py",
        "--",
        "-q",
        "test_module.py",
    ]
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, **pipes)
    assert process.stdin is not None and process.stdout is not None
    assert json.loads(process.stdout.readline()) == []

    def answer(function: str, old: str, new: str, patience: float | None = None) -> str:
        source = MODULE.replace(old, new)
        assert source != MODULE
        request = {"path": "module.py", "function": function, "source": source, "patience": patience}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    yield answer
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def test_mutants_are_killed_by_the_tests_that_call_them(runner) -> None:
    assert runner("doubled", "2 * each", "3 * each") == KILLED  # seen by a test that has the value from a fixture
    assert runner("doubled", "2 * each", "each + each") == SURVIVED
    assert runner("Counter.count", "+ 1", "- 1") == KILLED
    assert runner("Counter.count", "+ 1", "+ 2 - 1") == SURVIVED  # every fork begins with the original
    assert runner("Counter.count", "+ 1", "- 1", patience=0.0) == SURVIVED  # no test is that quick
    assert runner("unused", "x + 1", "x - 1") == SURVIVED
    assert runner("missing", "+ 1", "- 1") == UNKNOWN
