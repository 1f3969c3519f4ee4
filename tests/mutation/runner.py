"""A process that has the tests collected and forks itself for every mutant: nothing is imported or collected again.

`python -m tests.mutation` starts it in a copy of the repository. First every test runs once, with the functions of the
mutated files that it calls, itself or through its fixtures, written down (in a file: tests that stand there already are
not run again). Then a mutant is one function's code, put in the place of the original's in a fork, and the tests that
call the function run in it, first those that are quick for what they have killed. What a test module computes as it is
imported is computed by the original. A mutant outside any function is not for this process.

Requests and answers are lines: {"path", "function", "source", "patience"} of a mutant; "killed", "endless", "survived"
or "no such function".
"""

from __future__ import annotations

import cProfile
import gc
import json
import mmap
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, TextIO

import pytest

KILLED, ENDLESS, SURVIVED, UNKNOWN = "killed", "endless", "survived", "no such function"
#: A function: its file and its name, with its class's.
Key = tuple[str, str]
#: A test in a fork may take so many times as long as without a mutant, and some seconds: what takes longer is endless.
SLOWER, SLACK = 10.0, 3.0
#: As much longer may it take by the clock: the machine is another's too.
WAIT = 100.0
#: Seconds of what a test costs besides itself.
FORK = 0.02


def outermost(code: CodeType) -> Key:
    """The function of a module or class that holds this code."""
    return code.co_filename, code.co_qualname.partition(".<locals>")[0]


class Calls:
    """Which functions of `files` each test calls, itself or through its fixtures, and how long it takes."""

    def __init__(self, files: set[str]) -> None:
        self.files = files
        self.profile = cProfile.Profile(builtins=False, subcalls=False)
        self.seen: set[Key] = set()
        self.in_threads: set[Key] = set()
        self.of_fixture: dict[tuple[str, str], set[Key]] = defaultdict(set)
        self.to_set_up: dict[tuple[str, str], float] = defaultdict(float)
        self.failed: list[str] = []

    def look(self, frame: FrameType, event: str, _: object) -> None:
        """In threads other than the first."""
        if event == "call" and frame.f_code.co_filename in self.files:
            self.in_threads.add(outermost(frame.f_code))

    def since(self) -> set[Key]:
        """What was called since this was last asked."""
        self.profile.disable()
        codes = [entry.code for entry in self.profile.getstats() if isinstance(entry.code, CodeType)]
        called = {outermost(code) for code in codes if code.co_filename in self.files} | self.in_threads
        self.profile.clear()
        self.in_threads = set()
        self.profile.enable()
        return called

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What a fixture calls counts for every test that has it, not for the first one alone."""
        key, begun = (fixturedef.baseid, fixturedef.argname), time.process_time()
        self.seen |= self.since()
        outside, self.seen = self.seen, set()
        try:
            return (yield)
        finally:
            self.seen |= self.since()
            self.of_fixture[key] |= self.seen
            self.to_set_up[key] = max(self.to_set_up[key], time.process_time() - begun)
            self.seen |= outside

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def of(self, item: Any, following: Any) -> tuple[float, set[Key]]:
        """Runs one test; the seconds are those that it would take by itself."""
        self.seen, begun = set(), time.process_time()
        self.since()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        taken = time.process_time() - begun
        fixtures = [(d.baseid, d.argname) for found in item._fixtureinfo.name2fixturedefs.values() for d in found]
        seen = (self.seen | self.since()).union(*(self.of_fixture[key] for key in fixtures))
        return taken + sum(self.to_set_up[key] for key in fixtures), seen


class Runner:
    """The plugin that takes the place of pytest's loop over the tests."""

    def __init__(self, known: str, files: list[str], requests: TextIO, answers: TextIO) -> None:
        self.known = Path(known)
        self.files = {str(Path(path).resolve()) for path in files}
        self.requests, self.answers = requests, answers
        self.runs: dict[tuple[Key, int], int] = defaultdict(int)
        self.kills: dict[tuple[Key, int], int] = defaultdict(int)

    def pytest_runtestloop(self, session: Any) -> bool:
        """Answers every request."""
        tests = self.measured(session)
        functions: dict[Key, list[FunctionType]] = defaultdict(list)
        for found in gc.get_objects():
            if isinstance(found, FunctionType) and found.__code__.co_filename in self.files:
                functions[found.__code__.co_filename, found.__code__.co_qualname].append(found)
        broken = [item.nodeid for item in session.items[len(tests) :][:1]]  # it ended the fork
        self.answer(json.dumps([test["name"] for test in tests if test["failed"]] + broken))
        for line in self.requests:
            mutant = json.loads(line)
            key = (str(Path(mutant["path"]).resolve()), mutant["function"])
            place = [mutant["path"], mutant["function"]]
            calling = [(test["taken"], i) for i, test in enumerate(tests) if place in test["seen"]]
            order = within(sorted(calling, key=lambda test: self.worth(key, *test)), mutant["patience"])
            code = code_of(mutant["source"], key)
            if code is None or not functions[key]:
                self.answer(UNKNOWN)
                continue
            answer, runs = tried(functions[key], code, [(session.items[i], taken) for taken, i in order])
            for _, i in order[:runs]:
                self.runs[key, i] += 1
            if answer != SURVIVED:
                self.kills[key, order[runs - 1][1]] += 1
            self.answer(answer)
        return True

    def worth(self, key: Key, taken: float, i: int) -> float:
        """Seconds of a test for a kill, by its runs so far (the rule of succession): what to run first."""
        return (taken + FORK) * (self.runs[key, i] + 2) / (self.kills[key, i] + 1)

    def answer(self, text: str) -> None:
        print(text, file=self.answers, flush=True)

    def measured(self, session: Any) -> list[dict[str, Any]]:
        """Every test once, in a fork, so that no cache is warm afterwards: its name, seconds, and what it calls."""
        left, parent = session.items[len(self.lines()) :], os.getpid()
        if left and (child := os.fork()) == 0:
            calls = Calls(self.files)
            session.config.pluginmanager.register(calls)
            threading.setprofile(calls.look)
            for item, following in zip(left, [*left[1:], None], strict=True):
                taken, seen = calls.of(item, following)
                if os.getppid() != parent:  # stopped: a test may have taken the signal for its own
                    os._exit(1)
                places = [(os.path.relpath(path), name) for path, name in sorted(seen)]
                test = {"name": item.nodeid, "taken": taken, "failed": item.nodeid in calls.failed, "seen": places}
                with self.known.open("ab", buffering=0) as file:  # a whole line or none
                    file.write(json.dumps(test).encode() + b"\n")
            os._exit(0)
        if left:
            os.waitpid(child, 0)
        return [json.loads(line) for line in self.lines()]

    def lines(self) -> list[str]:
        return self.known.read_text(encoding="utf-8").splitlines() if self.known.exists() else []


def within(tests: list[tuple[float, int]], seconds: float | None) -> list[tuple[float, int]]:
    """The first of the tests, as many as take so long together."""
    totals = accumulate(taken for taken, _ in tests)
    return [test for test, total in zip(tests, totals, strict=True) if seconds is None or total <= seconds]


def code_of(source: str, key: Key) -> CodeType | None:
    """The code of a function in a changed file."""
    found = [compile(source, key[0], "exec")]
    for code in found:  # grows
        if outermost(code) == key and ".<locals>" not in code.co_qualname:
            return code
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return None


class Failures:
    """Whether a test has failed."""

    failed = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or report.failed


def tried(functions: list[FunctionType], code: CodeType, tests: list[tuple[Any, float]]) -> tuple[str, int]:
    """Whether a test fails, or does not end, in a fork in which the functions have this code; how many tests were run.

    tests : each with the seconds that it takes without a mutant
    """
    if not tests:
        return SURVIVED, 0
    count = mmap.mmap(-1, 4)  # shared with the fork, which may be ended at any moment
    child = os.fork()
    if child == 0:
        try:
            for function in functions:
                function.__code__ = code
            failures = Failures()
            tests[0][0].config.pluginmanager.register(failures)
            followers = [*(test for test, _ in tests[1:]), None]
            for number, ((test, taken), following) in enumerate(zip(tests, followers, strict=True), start=1):
                count[:] = number.to_bytes(4, "little")
                limit = SLOWER * taken + SLACK
                signal.setitimer(signal.ITIMER_PROF, limit)  # of computing: SIGPROF ends the fork
                signal.setitimer(signal.ITIMER_REAL, WAIT * limit)
                test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
                if failures.failed:
                    os._exit(1)
            os._exit(0)
        finally:
            os._exit(1)
    status, runs = os.waitpid(child, 0)[1], int.from_bytes(count[:], "little")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM):
        return ENDLESS, runs
    return (SURVIVED if status == 0 else KILLED), runs


def main(known: str, files: list[str], arguments: list[str]) -> None:
    """The door of the process: what pytest prints goes nowhere, and no test reads the requests."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    pytest.main(["--capture=no", *arguments], plugins=[Runner(known, files, requests, answers)])


if __name__ == "__main__":
    split = sys.argv.index("--")
    main(sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :])
