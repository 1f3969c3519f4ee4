"""Algorithm 1's page and the library's own way give the same adapter; so does the example that shows it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.algorithm import algorithm_1, allocate

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


def test_two_samples_by_hand() -> None:
    """S of a, b, c: (12 + 30) / 2 = 21, (5 + 13) / 2 = 9 and 0; shares 7/10, 3/10 and 0 of 6 ranks: 4, 2 and none."""
    W = {"a": np.eye(5), "b": 2 * np.eye(5), "c": np.eye(5)}
    sensitivity = [{"a": 12.0, "b": 5.0, "c": 0.0}, {"a": 30.0, "b": 13.0, "c": 0.0}]
    X = np.diag([3.0, 5.0, 1.0, 4.0, 2.0])
    # mean |W * dW| over 25 entries, of a constant dW and a diagonal W: a fifth of the constant times the diagonal
    dW = [{i: np.full((5, 5), 5 * S[i] / W[i][0, 0]) for i in W} for S in sensitivity]
    samples = [lambda i, each=each: (X, each[i]) for each in dW]
    r, alpha, A, B = algorithm_1(W, samples, 2, 6.0, tr.PROFILES["paper"])
    assert r == {"a": 4, "b": 2, "c": 0}
    assert alpha == pytest.approx({"a": 4 * 3 * 2.1, "b": 2 * 3 * 0.9, "c": 0.0})
    assert list(A) == list(B) == ["a", "b"]  # no rank, no A
    np.testing.assert_array_equal(np.abs(A["a"]), np.eye(5)[[1, 3, 0, 4]])  # the axes by their size in X
    np.testing.assert_array_equal(np.abs(A["b"]), np.eye(5)[[1, 3]])
    assert {i: each.shape for i, each in B.items()} == {"a": (5, 4), "b": (5, 2)}


def test_an_allocation_is_not_changed() -> None:
    made = allocate(np.array([1.0, 2.0]), [(9, 9), (9, 9)], 2, 3.0, tr.PROFILES["paper"])
    with pytest.raises(FrozenInstanceError):
        made.rank = made.rank_eq6  # type: ignore[misc]


def test_the_example_runs_and_finds_them_equal() -> None:
    ran = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table, _, verdict = ran.stdout.partition("\n\n")
    rows = [re.fullmatch(r"(\S+) +(\d+) +([\d.]+) +(\d+) +([\d.]+) +\S.*", line) for line in table.splitlines()[1:]]
    assert len(rows) == 28 and all(row and (row[2], row[3]) == (row[4], row[5]) for row in rows), table
    assert "ranks and B are the same" in verdict
    apart = [float(number) for number in re.findall(r"\d+e-\d+", verdict)]
    assert len(apart) == 2 and max(apart) < 1e-10, verdict
