"""The example of calibration in parallel, run as a person runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "05_calibrate_in_parallel.py"


def test_every_way_gives_the_same_adapter() -> None:
    dask = importlib.util.find_spec("distributed") is not None
    ran = subprocess.run([sys.executable, EXAMPLE, *["--dask"] * dask], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 3 + dask and all(line.endswith("the same bits") for line in lines), ran.stdout
