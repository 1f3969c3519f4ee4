"""Long and large, in seconds: calls and bytes, which no other work on the machine changes, at sizes near a limit are
what smaller ones foretell. `python -m tests.benchmarks.limits` measures time and memory at the limits themselves."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.limits import CASES, SLACK, Case, Work, foretold, prepared

SMALL = {"tokens": 16, "layers": 1, "width": 64, "rank": 2, "samples": 1, "vocabulary": 64}
#: The cases at other points, with all other quantities small.
QUICK = {
    "context": replace(CASES["context"], points=(256, 512, 1024), limit=4096),
    "vocabulary": replace(CASES["vocabulary"], points=(4096, 8192, 16384), base={"width": 8}),
    "layers": replace(CASES["layers"], points=(10, 20, 40), base={"width": 8}),
    "rank": replace(CASES["rank"], points=(4, 8, 16), limit=64, base={"tokens": 256}),
    "rows": replace(CASES["rows"], points=(125, 250, 500), limit=2000, whats=("reading",)),
    "samples": replace(CASES["rows"], points=(5, 10, 20), limit=100, whats=CASES["rows"].whats[1:]),
}


def counted(work: Work) -> tuple[int, int]:
    """Calls of functions, Python's and compiled ones, and bytes at most beyond what was held before, in a run that is
    not the first."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    work()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return calls, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def at_the_limit(case: Case, what: str, folder: Path) -> list[tuple[float, float]]:
    """(At the limit, foretold by the smaller points): of calls, of bytes."""
    base = {**SMALL, **case.base}
    points = [{**base, case.quantity: value} for value in (*case.points, case.limit)]
    found = [counted(prepared(what, point, folder)) for point in points]
    return [(series[-1], foretold(case, list(series[:-1]))) for series in zip(*found, strict=True)]


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, case in QUICK.items() for what in case.whats])
def test_a_limit_takes_what_smaller_sizes_foretell(name: str, what: str, tmp_path: Path) -> None:
    for found, expected in at_the_limit(QUICK[name], what, tmp_path):
        assert found <= SLACK * expected


def test_what_grows_faster_is_seen() -> None:
    """Rows of which each is kept beside each other one: bytes and calls are beyond what is allowed."""
    case = Case("rows", (20, 40, 80), 500)

    def all_pairs(n: int) -> Work:
        return lambda: [[abs(i - j) / 7 for j in range(n)] for i in range(n)]

    for *small, large in zip(*(counted(all_pairs(n)) for n in (*case.points, case.limit)), strict=True):
        assert large > SLACK * foretold(case, [float(value) for value in small])
