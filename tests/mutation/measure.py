"""What each test executes of the mutated files, itself and through its fixtures, and how long it takes.

A file of lines, so that a measuring that is stopped goes on: {"name", "taken", "failed", "fixtures", "seen"} of a test,
{"fixture", "uses", "taken", "seen"} of a fixture that was set up; "seen" are the lines of each file.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

#: As much longer may a test take while its lines are counted.
TRACED = 2.0

#: The lines of each file.
Seen = dict[str, set[int]]


def label(fixture: Any) -> str:
    return f"{fixture.baseid}::{fixture.argname}"


class TooLong(BaseException):
    """A test that no mutant would have the patience for."""


class Measuring:
    """The plugin that writes it down.

    files : of which lines are counted
    patience : seconds; a test that takes longer is stopped, and of those that are never run for a mutant
    """

    def __init__(self, known: Path, files: list[str], patience: float | None) -> None:
        self.known, self.patience = known, patience
        self.coverage = Coverage(data_file=None, include=files, config_file=False)
        self.inside: list[str] = []  # the test, and the fixtures that are being set up for it
        self.uses: dict[str, set[str]] = defaultdict(set)
        self.failed: set[str] = set()
        self.too_long = False

    def begin(self, what: str) -> None:
        if self.inside:
            self.uses[self.inside[-1]].add(what)
        self.inside.append(what)
        self.coverage.switch_context(what)

    def end(self) -> str:
        ended = self.inside.pop()
        self.coverage.switch_context(self.inside[-1] if self.inside else "")
        return ended

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """What a fixture executes counts for every test that has it, not for the first one alone."""
        begun = time.process_time()
        self.begin(label(fixturedef))
        try:
            return (yield)
        finally:
            name = self.end()
            every = request._pyfuncitem._fixtureinfo.name2fixturedefs
            uses = self.uses[name] | {label(d) for argument in fixturedef.argnames for d in every.get(argument, ())}
            self.write(fixture=name, uses=sorted(uses), taken=time.process_time() - begun, seen=self.seen(name))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        def stop(*_: Any) -> None:
            self.too_long = True
            raise TooLong

        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, TRACED * (self.patience or 0.0))  # 0 is no limit
        try:
            return (yield)
        except BaseException:  # the test may have made another one of it
            if not self.too_long:
                raise
            pytest.skip("too long")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def run(self, item: Any, following: Any) -> None:
        self.too_long, begun = False, time.process_time()
        self.begin(item.nodeid)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        name = self.end()
        fixtures = {label(d) for found in item._fixtureinfo.name2fixturedefs.values() for d in found}
        taken = math.inf if self.too_long else time.process_time() - begun
        fixtures |= self.uses[name]
        self.write(name=name, taken=taken, failed=name in self.failed, fixtures=sorted(fixtures), seen=self.seen(name))

    def seen(self, context: str) -> dict[str, list[int]]:
        data = self.coverage.get_data()
        data.set_query_context(context)
        lines = {os.path.relpath(path): data.lines(path) for path in data.measured_files()}
        return {path: sorted(each) for path, each in lines.items() if each}

    def write(self, **each: Any) -> None:
        with self.known.open("ab", buffering=0) as file:  # a whole line or none
            file.write(json.dumps(each).encode() + b"\n")

    def measure(self, items: list[Any], parent: int) -> None:
        self.coverage.start()
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.run(item, following)
            if os.getppid() != parent:  # stopped: a test may have taken the signal for its own
                os._exit(1)


@dataclass(frozen=True)
class Executed:
    """What is known of a test, or of a fixture with those that it is made of.

    taken : seconds
    """

    name: str
    taken: float
    failed: bool
    seen: Seen

    def executes(self, path: str, lines: tuple[int, int]) -> bool:
        return any(lines[0] <= line <= lines[1] for line in self.seen.get(path, ()))


class Known:
    """What is in the file: what each test and each fixture executes."""

    def __init__(self, known: Path) -> None:
        rows = [json.loads(line) for line in known.read_text(encoding="utf-8").splitlines()] if known.exists() else []
        self.uses: dict[str, set[str]] = defaultdict(set)
        own: dict[str, Seen] = defaultdict(dict)
        for row in rows:
            if "fixture" in row:
                self.uses[row["fixture"]] |= set(row["uses"])
                _add(own[row["fixture"]], row["seen"])
        self.fixtures = {
            name: Executed(name, 0.0, False, _together(own[each] for each in self._closure([name]))) for name in [*own]
        }
        self.tests: dict[str, Executed] = {}
        for row in rows:
            if "name" in row:
                seen = _together([row["seen"], *(own[each] for each in self._closure(row["fixtures"]))])
                self.tests[row["name"]] = Executed(row["name"], row["taken"], row["failed"], seen)

    def _closure(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        waiting = [*names]
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += self.uses.get(name, ())
        return found


def _add(total: Seen, seen: Any) -> None:
    for path, lines in seen.items():
        total.setdefault(path, set()).update(lines)


def _together(every: Any) -> Seen:
    total: Seen = {}
    for seen in every:
        _add(total, seen)
    return total
