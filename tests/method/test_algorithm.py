"""Algorithm 1's page and the library's own way give the same adapter; so does the example that shows it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.algorithm import algorithm_1

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "06_algorithm_1.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("algorithm_1_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("profile", ["paper", "released"])
def test_the_page_is_what_calibrate_allocate_and_initialize_do(profile: str) -> None:
    model, samples = tiny_llama(), tiny_samples(5)
    W = {module: model.weight(module) for module in model.shapes()}
    observed = [example().observations(model, sample) for sample in samples]
    r, alpha, A, B = algorithm_1(W, observed, 2, 3.0, tr.PROFILES[profile])
    stats = tr.calibrate(model, samples, profile=profile)
    plan = tr.allocate(stats.sensitivity, model.shapes(), 2, 3.0, profile)
    adapter = tr.initialize(model, stats, plan)
    assert r == plan.rank
    assert list(A) == list(B) == adapter.modules and len(A) > 5
    for module in adapter.modules:
        assert alpha[module] == pytest.approx(plan.alpha[module], rel=1e-13)
        known = min(r[module], *W[module].shape)  # rows beyond are null directions, in no determined order
        one, other = A[module][:known], adapter.A[module][:known]
        tolerance = 1e-9 if profile == "paper" else 1e-3  # `released` decomposes in float32
        np.testing.assert_allclose(one.T @ one, other.T @ other, atol=tolerance)
        assert not B[module].any() and B[module].shape == adapter.B[module].shape


def test_the_example_runs_and_finds_them_equal() -> None:
    ran = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, _, verdict = ran.stdout.partition("\n\n")
    rows = [re.fullmatch(r"(\S+) +(\d+) +([\d.]+) +(\d+) +([\d.]+) +\S.*", line) for line in table.splitlines()[1:]]
    assert len(rows) == 28 and all(row and (row[2], row[3]) == (row[4], row[5]) for row in rows), table
    assert "ranks and B are the same" in verdict
    apart = [float(number) for number in re.findall(r"\d+e-\d+", verdict)]
    assert len(apart) == 2 and max(apart) < 1e-10, verdict
