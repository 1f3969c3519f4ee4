"""The program that measures a GPU, tried out on the CPU; and the command that says when there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.measure import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_comparison_is_right_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--versions", "--compare", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "float64 on cpu: right" in said and "float32 on cpu: right" in said and "WRONG" not in said


@pytest.mark.parity
def test_the_timings_of_a_tiny_model(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    assert (
        main(["--time", "--device", "cpu", "--models", "tiny", "--tokens", "8", "--out", str(tmp_path / "t.json")]) == 0
    )
    found = json.loads((tmp_path / "t.json").read_text())["seconds"]["tiny"]
    assert set(found) == {"cpu", "torch", "numpy"}
    assert all(
        set(row) == {"train step", "calibration", "initialisation"} and min(row.values()) > 0 for row in found.values()
    )


def test_without_a_gpu_the_command_says_so() -> None:
    if os.environ.get("TLORA_BACKEND") == "cupy":
        pytest.skip("there is a GPU here")
    ran = subprocess.run(
        ["bash", str(ROOT / "tests" / "gpu" / "run.sh")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert ran.returncode == 2 and "there is no GPU to run on" in ran.stderr and "CuPy" in ran.stderr
