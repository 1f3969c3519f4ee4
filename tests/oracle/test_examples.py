"""The examples that check other people's frameworks, run as a person runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and a golden trace of it."""
    folder = tmp_path_factory.mktemp("recorded")
    model, samples = tiny_llama(seed=3), tiny_samples(3, seed=4)
    tr.save_model(model, folder / "model")
    tr.trace(tr.load_model(folder / "model"), samples, folder / "golden", r_init=2, alpha=3.0, steps=2)
    return folder / "model", folder / "golden"


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_peft_run_is_right_in_its_own_precision(dtype: str, golden: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, gold = golden
    run("02_record_from_peft.py", model, gold, tmp_path / "c", "--dtype", dtype)
    report = tr.compare(gold, tmp_path / "c", checkpoint=model)
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    checked = {finding.stage for finding in report.of("pass")}
    assert checked == {"loss", "covariance", "sensitivity", "ranks", "scales", "A", "gradient", "adamw", "merge"}


@pytest.mark.parity
def test_stock_float64_is_told_from_true_float64(golden: tuple[Path, Path], tmp_path: Path) -> None:
    """transformers keeps float32 inside a float64 model: wrong as float64, and the report says what it is."""
    pytest.importorskip("peft")
    model, gold = golden
    run("02_record_from_peft.py", model, gold, tmp_path / "c", "--dtype", "float64")
    report = tr.compare(gold, tmp_path / "c", checkpoint=model)
    assert not report.passed and "right as float32" in str(report.cause)


@pytest.mark.parity
def test_the_pytorch_implementation_passes_the_kit() -> None:
    pytest.importorskip("torch")
    assert run("03_check_pytorch.py").splitlines()[-1] == "right"


def test_the_jax_implementation_passes_the_kit() -> None:
    pytest.importorskip("jax")
    said: Any = run("04_check_jax.py").splitlines()
    assert said[-1] == "right" and "train: skipped (there is no train: not checked)" in said
