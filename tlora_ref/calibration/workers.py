"""Processes that calibrate side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from tlora_ref.machine import KERNEL_VARIABLE, linear_algebra, prepare

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """An executor of that many processes for `calibrate`, which share the cores among them; None for one.

    They multiply with the kernel that works here, so that a sample gives the same bits there.
    """
    if workers == 1:
        yield None
        return
    share = str(max(1, (os.cpu_count() or 1) // workers))
    wanted = {name: share for name in BLAS_THREADS if name not in os.environ}
    kernel = linear_algebra().get("kernel")  # not always what the environment says: NumPy may have been there before
    kept = os.environ.get(KERNEL_VARIABLE)
    if kernel is not None:
        wanted[KERNEL_VARIABLE] = kernel
    os.environ.update(wanted)  # read by the processes when they start
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare) as executor:
            yield executor
    finally:
        for name in wanted:
            del os.environ[name]
        if kept is not None:
            os.environ[KERNEL_VARIABLE] = kept
