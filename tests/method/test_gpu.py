"""The method on CuPy arrays gives what it gives on NumPy arrays. Skipped, test by test, without CuPy and a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.method.stand_ins import statistics, weights
from tlora_ref.backend import Device, get_device, to_numpy
from tlora_ref.errors import DeviceError
from tlora_ref.method import low_rank, theory
from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.covariance import second_moment
from tlora_ref.method.sensitivity import sample_sensitivity

RNG = np.random.default_rng(0)
W, X, A, B = (RNG.standard_normal(shape) for shape in ((5, 7), (20, 7), (3, 7), (5, 3)))
C = X.T @ X


@pytest.fixture
def gpu() -> Device:
    try:
        return get_device("gpu")
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "compute",
    [
        lambda W, X, A, B, C: second_moment(X, centre=True),
        lambda W, X, A, B, C: sample_sensitivity(W, W),
        lambda W, X, A, B, C: low_rank.adapted_output(X, W, A, B, 2.0),
        lambda W, X, A, B, C: low_rank.sgd_weight_update(W, A, 2.0, 0.1),
        lambda W, X, A, B, C: adamw_step(B, B, B, B * B, step=2, lr=0.1)[0],
        lambda W, X, A, B, C: theory.objective(A, C, W),
        lambda W, X, A, B, C: theory.projector(A, C),
        lambda W, X, A, B, C: theory.objective_bound(C, W, 3),
        lambda W, X, A, B, C: theory.von_neumann_bound(C, C),
        lambda W, X, A, B, C: theory.largest_sine(A, A[:2]),
    ],
)
def test_functions_agree(gpu: Device, compute: Callable[..., Any]) -> None:
    host = (W, X, A, B, C)
    np.testing.assert_allclose(to_numpy(compute(*map(gpu.put, host))), compute(*host), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["wc-svd", "w-svd", "random", "theory"])
def test_initialize_agrees(gpu: Device, kind: str) -> None:
    plan = tr.allocate({"m": 1.0}, {"m": W.shape}, 3, 3.0)
    made = []
    for put in (np.asarray, gpu.put):
        model = weights(lambda m, put=put: put(W))
        stats = statistics({"m": put(C)})
        made.append(to_numpy(tr.initialize(model, stats, plan, init=kind).A["m"]))
    signs = np.sign((made[0] * made[1]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(made[1], signs * made[0], atol=1e-8)
