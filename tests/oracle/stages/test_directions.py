"""What rounding to a low precision does to rows of A and to merged weights, and what it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.directions import judge_directions
from tlora_ref.oracle.stages.initialization import judge_initialize_a
from tlora_ref.oracle.stages.merge import judge_share
from tlora_ref.oracle.stages.spectrum import ROTATED

LOW = Precision.of("bfloat16")


def made(seed: int, d_out: int = 32, d_in: int = 32) -> tuple[Array, Array]:
    """W, and C of 60 inputs of very different sizes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, d_in)) * rng.uniform(0.2, 2.0, d_in) + 0.3
    return rng.normal(size=(d_out, d_in)), X.T @ X


def vectors(M: Array, r: int) -> Array:
    return np.linalg.svd(M, full_matrices=True)[2][:r]


@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (12, 32), (8, 5)])
def test_rounding_anywhere_before_the_decomposition_is_no_mistake(shape: tuple[int, int]) -> None:
    """Of W, of C, of W C and of A, each or all of them; A is of what was before C was stored, or after."""
    low = LOW.rounded
    for seed in range(30):
        W, C = made(seed, *shape)
        rng, r = np.random.default_rng(seed), (4, min(shape))[seed % 2]
        signs = rng.choice([-1.0, 1.0], size=(r, 1))
        for A in (vectors(W @ C, r), vectors(low(low(W) @ low(C)), r), vectors(low(W) @ C, r), vectors(W @ low(C), r)):
            verdict = judge_directions(low((A * signs)[rng.permutation(r)]), W, low(C), LOW)
            assert verdict is None or verdict.passed, verdict


def rotated(A: Array, degrees: float, i: int = 0, j: int = 1) -> Array:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = A.copy()
    turned[i], turned[j] = c * A[i] - s * A[j], s * A[i] + c * A[j]
    return turned


def test_small_rotations_noise_and_damping_are_wrong_in_bfloat16() -> None:
    """Three degrees inside the row space, noise of a hundredth, C with a tenth of its mean diagonal added."""
    caught = {"rotated": 0, "noise": 0, "damped": 0}
    for seed in range(10):
        W, C = made(seed)
        A, rng = vectors(W @ C, 4), np.random.default_rng(seed)
        tried = {
            "rotated": rotated(A, 3.0),
            "noise": np.linalg.qr((A + 1e-2 * rng.normal(size=A.shape)).T)[0].T,
            "damped": vectors(W @ (C + 0.1 * np.trace(C) / len(C) * np.eye(len(C))), 4),
        }
        for name, wrong in tried.items():
            verdict = judge_directions(LOW.rounded(wrong), W, LOW.rounded(C), LOW)
            caught[name] += verdict is not None and not verdict.passed
            if verdict is not None and not verdict.passed:
                assert (verdict.cause == ROTATED) is (name == "rotated")
    assert min(caught.values()) >= 9, caught  # a pair of close singular values may be turned by rounding


def test_the_judge_of_A_takes_them_and_a_higher_precision_has_no_need() -> None:
    W, C = made(3)
    rules = {"W": W, "r": 4, "switches": PROFILES["paper"]}
    A = vectors(W @ C, 4)
    for right, passed in ((A, True), (rotated(A, 3.0), False)):
        verdicts = judge_initialize_a(LOW.rounded(right), C=LOW.rounded(C), precision=LOW, **rules)  # type: ignore[arg-type]
        assert all(v.passed for v in verdicts) is passed
        assert "directions of rows" in {v.what for v in verdicts}
    single = judge_initialize_a(A, C=C, precision=Precision.of("float32"), **rules)  # type: ignore[arg-type]
    assert "directions of rows" not in {v.what for v in single}
    assert judge_directions(A, W, C, Precision.of("float32")) is None


def merged(share: float, seed: int, *, on_grid: bool = True) -> list[tuple[Array, Array, Array]]:
    """W' = W + share s B A as bfloat16 has it, W and s B A, of ten modules; W is one that bfloat16 holds, or not."""
    found, rng = [], np.random.default_rng(seed)
    for _ in range(10):
        W = rng.normal(size=(32, 32))
        W = LOW.rounded(W) if on_grid else W
        update = rng.normal(size=(32, 3)) @ rng.normal(size=(3, 32)) * 0.05
        product = LOW.rounded(share * update)
        found.append((LOW.rounded(LOW.rounded(W) + product), W, update))
    return found


def test_the_share_of_the_update_that_is_merged_is_seen_over_all_modules() -> None:
    for seed in range(20):
        for share, passed in ((1.0, True), (1.01, False), (0.99, False), (0.0, False)):
            verdict = judge_share(merged(share, seed), LOW)
            assert verdict is not None and verdict.passed is passed, (seed, verdict)
            assert verdict.detects == verdict.allowed and verdict.got == pytest.approx(share, abs=2e-3)
            assert verdict.allowed < 0.01 or share == 0.0
        right = judge_share(merged(1.0, seed, on_grid=False), LOW)
        assert right is not None and right.passed
    assert judge_share(merged(1.01, 0), Precision.of("float32")) is None
    assert judge_share([(W, W, 0.0 * W) for _, W, _ in merged(1.0, 0)], LOW) is None
