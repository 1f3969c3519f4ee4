"""Settings that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# Workers of pytest-xdist share the cores: one BLAS thread each, said before NumPy is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

import pytest
from hypothesis import HealthCheck, settings

from tests.pages.browsing import chromium

# No deadline: a shared two-core machine makes single examples slow at random. CI repeats the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser, for tests marked `browser`."""
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started
