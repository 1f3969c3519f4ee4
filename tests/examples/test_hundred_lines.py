"""The method in a hundred lines is the library's, number for number."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tlora_ref.algorithm import Observation, algorithm_1
from tlora_ref.autograd import Tensor, activation, grad, leaf, linear, low_rank_linear, record
from tlora_ref.method.adamw import adamw_step

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "tlora_in_100_lines.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hundred_lines", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mean_square(y: Tensor, target: np.ndarray) -> Tensor:
    error = y.data - target
    return record(np.asarray(np.mean(error**2)), (y,), lambda dy: (dy * 2.0 * error / error.size,))


def observed(W: dict[str, np.ndarray], x: np.ndarray, target: np.ndarray) -> dict[str, Observation]:
    """X and dLoss/dW of the two layers, by the library's tape."""
    first, second = leaf(W["first"], "first"), leaf(W["second"], "second")
    h = activation(linear(Tensor(x), first), "tanh")
    dW = grad(mean_square(linear(h, second), target), ["first", "second"])
    return {"first": (x, dW["first"]), "second": (h.data, dW["second"])}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_step_is_the_library_s_to_1e_12(script: ModuleType, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "STEPS", 25)
    W, samples = script.make_task(np.random.default_rng(seed))
    S, C = script.calibrate(W, samples)
    rank, scale = script.allocate(S, W)
    A, B = script.initialize(W, C, rank)
    by_sample = [observed(W, x, target).__getitem__ for x, target in samples]
    r, alpha, library_A, library_B = algorithm_1(W, by_sample, script.R_INIT, script.ALPHA, tr.PROFILES["paper"])
    assert rank == r and min(r.values()) > 0
    for i in W:
        assert alpha[i] == pytest.approx(rank[i] * scale[i], rel=1e-12)
        np.testing.assert_allclose(A[i].T @ A[i], library_A[i].T @ library_A[i], atol=1e-12)
        assert np.array_equal(B[i], library_B[i])
    losses = script.train(W, A, B, scale, samples)
    expected_B, expected = by_the_library(W, A, scale, samples, script)
    np.testing.assert_allclose(losses[:-1], expected, rtol=1e-12)
    for i in W:
        np.testing.assert_allclose(B[i], expected_B[i], rtol=0, atol=1e-12)


def by_the_library(
    W: dict[str, Any], A: dict[str, Any], scale: dict[str, float], samples: list[Any], script: ModuleType
) -> tuple[dict[str, np.ndarray], list[float]]:
    """B trained through the tape and the library's AdamW, and the loss before every step."""
    x, target = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    B = {i: np.zeros((len(W[i]), len(A[i]))) for i in W}
    m, v = {i: np.zeros_like(B[i]) for i in B}, {i: np.zeros_like(B[i]) for i in B}
    losses = []
    for t in range(1, script.STEPS + 1):

        def layer(i: str, x: Tensor) -> Tensor:
            return low_rank_linear(x, Tensor(W[i]), None, Tensor(A[i]), leaf(B[i], i), scale[i])

        loss = mean_square(layer("second", activation(layer("first", Tensor(x)), "tanh")), target)
        losses.append(float(loss))
        g = grad(loss, list(B))
        for i in B:
            B[i], m[i], v[i] = adamw_step(B[i], g[i], m[i], v[i], step=t, lr=script.LR)
    return B, losses


def test_it_is_a_hundred_lines_of_numpy_alone_and_says_what_it_does() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert text.count("\n") <= 100
    imported = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == ["import numpy as np"]
    said = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout
    ends = [float(n) for n in re.findall(r"-> ([\d.]+)", said)]
    starts = [float(n) for n in re.findall(r"([\d.]+) ->", said)]
    assert len(said.splitlines()) == 4 and len(ends) == 2
    assert ends[0] < 0.1 * starts[0] and ends[0] < 0.5 * ends[1]  # it learns, and more than from random A
