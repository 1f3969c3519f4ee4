"""Processes that calibrate compute as this one does."""

import os

import pytest

from tlora_ref.calibration.workers import processes
from tlora_ref.machine import KERNEL_VARIABLE, linear_algebra


def _kernel() -> str:
    import numpy  # noqa: F401 - what is asked for is what NumPy loads in the worker

    return str(linear_algebra().get("kernel"))


@pytest.mark.parametrize("told", ["Haswell", "Prescott", None])
def test_workers_multiply_with_the_kernel_at_work_here(told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the environment says now came after NumPy, which does not look at it again.
    monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
    if told is not None:
        monkeypatch.setenv(KERNEL_VARIABLE, told)
    with processes(2) as executor:
        assert executor is not None
        assert executor.submit(_kernel).result() == _kernel()
    assert os.environ.get(KERNEL_VARIABLE) == told
