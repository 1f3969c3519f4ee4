"""Blocks and threads: what runs in pieces or side by side is what it was whole and in turn."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tlora_ref import backend
from tlora_ref.backend import cache_blocks, get_device, scatter_add

side_by_side = get_device().side_by_side


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 100), (7, 3), (8, 4), (100, 1), (5, 0)])
def test_blocks_cover_every_row_once_and_fit(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CACHED", 12)
    x = np.zeros(shape)
    blocks = cache_blocks(x)
    rows = np.concatenate([np.arange(len(x))[block] for block in blocks]) if blocks else np.arange(0)
    assert rows.tolist() == list(range(len(x)))
    assert all(x[block].size <= max(12, shape[1]) for block in blocks)
    assert len(blocks) <= len(x)


@pytest.fixture(autouse=True)
def _libraries_as_they_are_now() -> None:
    """Another test of this process may have loaded SciPy's own BLAS after the backend looked for them."""
    backend._blas.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_tasks_side_by_side_come_back_in_order_with_one_blas_thread_each(threads: int) -> None:
    with threadpool_limits(threads, user_api="blas"):
        before = blas_threads()
        barrier = threading.Barrier(threads)  # passed only if that many run at once

        def task(number: int) -> tuple[int, set[int]]:
            barrier.wait(timeout=20)
            return number, blas_threads()

        found = side_by_side([lambda n=n: task(n) for n in range(4)])
        assert found == [(n, {1}) for n in range(4)]
        assert blas_threads() == before
    assert side_by_side([]) == []


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores a thread may use"
)
@pytest.mark.parametrize("planted", [None, ValueError])
def test_each_thread_has_a_core_of_its_own_where_they_are_all_there_are(planted: type[Exception] | None) -> None:
    allowed = os.sched_getaffinity(0)
    cores: list[set[int]] = []

    def task() -> None:
        barrier.wait(timeout=20)
        cores.append(os.sched_getaffinity(0))
        if planted is not None:
            raise planted

    for threads in {len(allowed), len(allowed) + 1} - {1}:
        cores.clear()
        barrier = threading.Barrier(threads)
        with threadpool_limits(threads, user_api="blas"), suppress(ValueError):
            side_by_side([task] * threads)
        own = [{core} for core in allowed] if threads == len(allowed) else [allowed] * threads
        assert sorted(map(sorted, cores)) == sorted(map(sorted, own))
        assert os.sched_getaffinity(0) == allowed


def test_the_error_of_a_task_arrives_and_the_threads_come_back() -> None:
    before = blas_threads()

    def fail() -> int:
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        side_by_side([lambda: 1, fail])
    assert blas_threads() == before


def test_a_task_s_own_tasks_run_in_turn() -> None:
    with threadpool_limits(2, user_api="blas"):
        names = side_by_side([lambda: side_by_side([threading.get_ident] * 2) for _ in range(2)])
    assert all(inner[0] == inner[1] for inner in names)


def test_what_a_task_computes_does_not_depend_on_how_many_run() -> None:
    M = np.random.default_rng(0).standard_normal((6, 120, 90))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            results.append(side_by_side([lambda m=m: np.linalg.svd(m)[2] @ m.T for m in M]))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("rows", [[], [3], [0, 2, 4], [0, 2, 2], [4, 1, 4], [3, 1, 0]])
def test_scattered_rows_add_up(rows: list[int]) -> None:
    rng = np.random.default_rng(len(rows))
    target, values = rng.standard_normal((5, 3)), rng.standard_normal((len(rows), 3))
    expected = [[float(x) for x in row] for row in target]
    for row, added in zip(rows, values, strict=True):
        expected[row] = [x + y for x, y in zip(expected[row], added, strict=True)]
    scatter_add(target, np.array(rows, dtype=np.int64), values)
    assert target.tolist() == expected
