"""`tlora-ref` with a calibration that takes a second and is saved whenever it can be, so that kills meet it at work.

python -m tests.faults.slow_calibration init MODEL ...
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tlora_ref.__main__
import tlora_ref.pipeline.adapters
from tlora_ref.calibration import CalibrationStats, calibrate

SECONDS_A_SAMPLE = 0.05


def slowly(*arguments: Any, progress: Callable[[int, int], object] | None = None, **options: Any) -> CalibrationStats:
    """`calibrate`."""

    def tell(done: int, total: int) -> None:
        time.sleep(SECONDS_A_SAMPLE)
        if progress is not None:
            progress(done, total)

    return calibrate(*arguments, **options, progress=tell, save_seconds=0)


if __name__ == "__main__":
    tlora_ref.pipeline.adapters.calibrate = slowly
    tlora_ref.__main__.main()
