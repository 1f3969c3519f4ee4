"""The process that has the tests collected and forks itself for every mutant: nothing is imported or collected again.

`python -m tests.mutation` starts it in a copy of the repository. First every test runs once, and the lines of the
mutated files that it executes, itself or through its fixtures, are written down (measure.py). A mutant is the code of
one function, put in the place of the original's in a fork, and the tests that execute the changed statement run in it,
first those that are quick for what they have killed; a statement that no test executes survives at once. A fixture of
more than one test is set up once, before the forks, and anew only where it executes the changed statement. What a test
module computes as it is imported is computed by the original. A mutant outside any function is written to the disk, and
its fork imports the package and the tests anew: those that execute anything of the file, or without a patience all. A
patience is the seconds that the tests of a mutant may take together; a test that takes longer by itself is never run.

Requests and answers are lines: {"path", "function", "lines", "source"} of a mutant; "killed", "endless",
"survived", or "equivalent" where the bytecode is the original's.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import mmap
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, TextIO

import pytest

from tests.mutation.fixtures import Fixtures
from tests.mutation.measure import Executed, Known, Measuring

KILLED, ENDLESS, SURVIVED, EQUIVALENT = "killed", "endless", "survived", "equivalent"
#: The exit status of a fork that comes to no test.
BROKEN = 77
#: As pytest is called.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-m", "not parity")
#: What a fork calls as a test begins: its number, from 1, and the seconds that it takes without a mutant.
Begin = Callable[[int, float], None]
#: A function: its file and its name, with its class's.
Key = tuple[str, str]
#: A test in a fork may take so many times as long as without a mutant, and some seconds: what takes longer is endless.
SLOWER, SLACK = 10.0, 3.0
#: As much longer may it take by the clock: the machine is another's too.
WAIT = 100.0
#: Seconds of what a test costs besides itself; of importing all anew.
FORK, COLLECTING = 0.005, 10.0
#: What a test did to mutants of the same statement says as much of it as so many of other lines of the function.
SAME_LINE = 8


class History:
    """How often each test ran for mutants of a place, and killed them: a place is a function or a statement."""

    def __init__(self) -> None:
        self.runs: dict[Any, int] = defaultdict(int)
        self.kills: dict[Any, int] = defaultdict(int)

    def add(self, places: list[Any], tests: list[int], killed: bool) -> None:
        for place in places:
            for number, i in enumerate(tests, start=1):
                self.runs[place, i] += 1
                self.kills[place, i] += killed and number == len(tests)

    def worth(self, places: list[Any], cost: float, i: int) -> float:
        """Seconds of a test for a kill (the rule of succession): what to run first."""
        function, statement = places
        runs = self.runs[function, i] + SAME_LINE * self.runs[statement, i]
        return cost * (runs + 2) / (self.kills[function, i] + SAME_LINE * self.kills[statement, i] + 1)


class Runner:
    """The plugin that takes the place of pytest's loop over the tests."""

    def __init__(self, known: str, patience: float | None, files: list[str], requests: TextIO, answers: TextIO) -> None:
        self.known, self.patience = Path(known), patience
        self.files = [str(Path(path).resolve()) for path in files]
        self.requests, self.answers = requests, answers
        self.history = History()
        self.fixtures = Fixtures()
        self.tests: list[Executed] = []
        self.made: dict[str, Executed] = {}
        self.sound: set[str] = set()

    def pytest_runtestloop(self, session: Any) -> bool:
        """Answers every request."""
        self.measure(session)
        known = Known(self.known)
        self.made, self.tests = (
            known.fixtures,
            [known.tests[i.nodeid] for i in session.items if i.nodeid in known.tests],
        )
        broken = [item.nodeid for item in session.items if item.nodeid not in known.tests][:1]  # it ended the fork
        failed = [test.name for test in self.tests if test.failed] + broken
        if not failed:
            self.fixtures.set_up(session.items)
        functions: dict[Key, list[FunctionType]] = defaultdict(list)
        for found in gc.get_objects():
            if isinstance(found, FunctionType) and found.__code__.co_filename in self.files:
                functions[found.__code__.co_filename, found.__code__.co_qualname].append(found)
            elif isinstance(found, functools._lru_cache_wrapper):
                found.cache_clear()  # what the fixtures have computed
        gc.freeze()
        self.answer(json.dumps(failed))
        for line in self.requests:
            mutant = json.loads(line)
            key = (str(Path(mutant["path"]).resolve()), mutant["function"])
            self.answer(self.verdict(session, mutant, functions[key]))
        return True

    def answer(self, text: str) -> None:
        print(text, file=self.answers, flush=True)

    def measure(self, session: Any) -> None:
        """Every test once, in a fork, so that no cache is warm afterwards."""
        known, parent = Known(self.known).tests, os.getpid()
        left = [item for item in session.items if item.nodeid not in known]
        if left and (child := os.fork()) == 0:
            measuring = Measuring(self.known, self.files, self.patience)
            session.config.pluginmanager.register(measuring)
            measuring.measure(left, parent)
            os._exit(0)
        if left:
            os.waitpid(child, 0)

    def verdict(self, session: Any, mutant: dict[str, Any], functions: list[FunctionType]) -> str:
        path, lines = mutant["path"], (mutant["lines"][0], mutant["lines"][1])
        places = [(path, mutant["function"]), (path, lines)]
        if not functions:
            chosen = self.chosen(places, lambda test: self.patience is None or path in test.seen)
            body = functools.partial(afresh, path, mutant["source"], [self.tests[i] for i in chosen], self.fixtures)
        else:
            code, original = code_of(mutant["source"], functions[0].__code__), functions[0].__code__
            if same(code, original):
                return EQUIVALENT
            if not any(lines[0] <= line <= lines[1] for line in lines_of(original)):
                raise AssertionError(f"{path}: there is no bytecode of lines {lines}")
            chosen = self.chosen(places, lambda test: test.executes(path, lines))
            self.fixtures.anew = {name for name, made in self.made.items() if made.executes(path, lines)}
            items = [(session.items[i], self.tests[i].taken) for i in chosen]
            body = functools.partial(replaced, functions, code, items, self.fixtures)
        text = Path(path).read_bytes()
        answer, last = tried(body) if chosen else (SURVIVED, 0)
        Path(path).write_bytes(text)
        self.fixtures.tidy()
        if answer != SURVIVED and functions:
            self.see_it_pass(session.items[chosen[last - 1]], self.tests[chosen[last - 1]].taken)
        self.history.add(places, chosen[:last], answer != SURVIVED)
        return answer

    def see_it_pass(self, item: Any, taken: float) -> None:
        """That a test which kills does not fail in every fork."""
        if item.nodeid not in self.sound:
            answer, _ = tried(functools.partial(replaced, [], None, [(item, taken)], self.fixtures))
            self.fixtures.tidy()
            if answer != SURVIVED:
                raise AssertionError(f"{item.nodeid} fails in a fork without a mutant: {answer}")
            self.sound.add(item.nodeid)

    def chosen(self, places: list[Any], of: Callable[[Executed], bool]) -> list[int]:
        """Which tests to run, in order: as many as the patience is for."""
        most = math.inf if self.patience is None else self.patience
        costs = {i: test.taken + FORK for i, test in enumerate(self.tests) if of(test) and test.taken + FORK <= most}
        order = sorted(costs, key=lambda i: self.history.worth(places, costs[i], i))
        totals = accumulate(costs[i] for i in order)
        return [i for i, total in zip(order, totals, strict=True) if total <= most]


def code_of(source: str, original: CodeType) -> CodeType:
    """The code of a function in a changed file."""
    found = [compile(source, original.co_filename, "exec")]
    for code in found:  # grows
        if code.co_qualname == original.co_qualname:
            return code
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise LookupError(f"{original.co_filename}: {original.co_qualname} is not there")


def lines_of(code: CodeType) -> set[int]:
    """All lines of a function's bytecode, of the functions in it too."""
    inside = (lines_of(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return {line for _, _, line in code.co_lines() if line is not None}.union(*inside)


def same(code: CodeType, other: CodeType) -> bool:
    """Whether two codes do the same: all but the places of the source."""
    if (code.co_code, code.co_names, code.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    if code.co_exceptiontable != other.co_exceptiontable or len(code.co_consts) != len(other.co_consts):
        return False
    pairs = zip(code.co_consts, other.co_consts, strict=True)
    return all(
        same(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else repr(a) == repr(b) for a, b in pairs
    )


class Failures:
    """The plugin that tells `begin` which test begins, and knows whether one has failed.

    tests : the seconds that each takes without a mutant
    """

    def __init__(self, begin: Begin, tests: dict[str, float]) -> None:
        self.begin, self.tests, self.failed = begin, tests, False
        self.numbers = {name: number for number, name in enumerate(tests, start=1)}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.begin(self.numbers[nodeid], self.tests[nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or report.failed


def replaced(
    functions: list[FunctionType],
    code: CodeType | None,
    tests: list[tuple[Any, float]],
    fixtures: Fixtures,
    begin: Begin,
) -> bool:
    """In a fork, whether a test fails with this code of the functions; tests: each with its seconds."""
    for function in functions:
        function.__code__ = code  # type: ignore[assignment]
    items, config = [test for test, _ in tests], tests[0][0].config
    failures = Failures(begin, {test.nodeid: taken for test, taken in tests})
    config.pluginmanager.register(failures)
    fixtures.give(config)
    for item, following in zip(items, [*items[1:], None], strict=True):
        config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failures.failed:
            return True
    return False


def afresh(path: str, source: str, tests: list[Executed], fixtures: Fixtures, begin: Begin) -> bool:
    """In a fork, whether a test fails when the package and the tests are imported with this file, which stays."""
    begin(0, COLLECTING)
    here = os.getcwd() + os.sep
    for name in [
        name for name, module in sys.modules.items() if (module.__dict__.get("__file__") or "").startswith(here)
    ]:
        del sys.modules[name]
    Path(path).write_text(source, encoding="utf-8")
    failures = Failures(begin, {test.name: test.taken for test in tests})
    options = [*OPTIONS, "-x", "--capture=no", f"--basetemp={fixtures.temporary}"]
    return pytest.main([*options, *(test.name for test in tests)], plugins=[failures]) != 0


def tried(body: Callable[[Begin], bool]) -> tuple[str, int]:
    """Whether a test fails, or does not end, in a fork that does this; the number of the last test that began."""
    last = mmap.mmap(-1, 4)  # shared with the fork, which may be ended at any moment

    def begin(number: int, taken: float) -> None:
        last[:] = number.to_bytes(4, "little")
        limit = SLOWER * taken + SLACK
        signal.setitimer(signal.ITIMER_PROF, limit)  # of computing: SIGPROF ends the fork
        signal.setitimer(signal.ITIMER_REAL, WAIT * limit)

    child = os.fork()
    if child == 0:
        try:
            os._exit(body(begin))
        finally:  # what a test raises through pytest is the test's; before the first test it is our own mistake
            os._exit(1 if int.from_bytes(last[:], "little") else BROKEN)
    status, number = os.waitpid(child, 0)[1], int.from_bytes(last[:], "little")
    last.close()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == BROKEN:
        raise AssertionError("a fork ended before its first test")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM):
        return ENDLESS, number
    return (SURVIVED if status == 0 else KILLED), number


def main(known: str, patience: str, files: list[str], arguments: list[str]) -> None:
    """The door of the process: what pytest prints goes nowhere, and no test reads the requests."""
    seconds = float(patience) if patience else None
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    runner = Runner(known, seconds, files, requests, answers)
    pytest.main([*OPTIONS, "--capture=no", *arguments], plugins=[runner])


if __name__ == "__main__":
    split = sys.argv.index("--")
    main(sys.argv[1], sys.argv[2], sys.argv[3:split], sys.argv[split + 1 :])
