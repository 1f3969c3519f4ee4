"""Right implementations that differ only in what is free: how many of them does `verify` call wrong? None may be.

`python -m tests.oracle.false_alarms [RUNS]` prints the figure. A run draws a model, samples, a budget, a profile, a
training and a precision; the candidate sums in another order, takes other signs of the singular vectors, decomposes by
another LAPACK routine, calibrates on one padded batch taken apart again, uses another number of BLAS threads, or works
in float32, in float32 stored as bfloat16, or in float64. It is compared with the weights and without.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

import tlora_ref as tr
from tests.oracle.wrong_runs import record
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.report import Report
from tlora_ref.training import TrainSettings

Array = np.ndarray


class Otherwise(Reference):
    """The same method by other arithmetic: naive sums, the eigenvectors of M^T M's square root, flipped signs."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def covariance(self, inputs: list[Array]) -> Array:
        """Token by token, in a random order of samples."""
        total = np.zeros((inputs[0].shape[1],) * 2)
        for n in self.rng.permutation(len(inputs)):
            for x in inputs[n]:
                total += np.outer(x, x)
        return total / len(inputs)

    def sensitivity(self, W: Array, gradients: list[Array]) -> float:
        """Columns first."""
        return sum(float(np.abs(W * g).sum(axis=0).sum()) for g in gradients) / W.size / len(gradients)

    def initialize_a(self, W: Array, C: Array, r: int) -> Array:
        """By the SVD of the transpose, with random signs of the rows."""
        driver = str(self.rng.choice(["gesdd", "gesvd"]))
        U = scipy.linalg.svd((W @ C).T, full_matrices=True, lapack_driver=driver)[0]
        return U.T[:r] * self.rng.choice([-1.0, 1.0], size=(r, 1))

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        """Through h = x A^T."""
        return (dy * scale).T @ (x @ A.T)

    def merge(self, W: Array, A: Array, B: Array, scale: float) -> Array:
        """One outer product at a time."""
        return W + sum(np.outer(scale * B[:, k], A[k]) for k in range(len(A)))


def one(seed: int, folder: Path) -> tuple[str, list[Report]]:
    """One randomised run: what it was, and the verdicts on a candidate that is right, with the weights and without."""
    rng = np.random.default_rng(seed)
    model = tiny_llama(seed=seed, num_hidden_layers=int(rng.integers(1, 3)))
    samples: list[dict[str, Any]] = tiny_samples(int(rng.integers(1, 5)), seed=seed)
    kind = ("otherwise", "float32", "bfloat16", "batched", "threads")[seed % 5]
    if kind == "threads":  # of a size at which a product is shared out among threads
        model, samples = tiny_llama(seed=seed, hidden_size=128, intermediate_size=192), tiny_samples(3, seed=seed)
    by_stages = kind in ("otherwise", "batched")  # by functions that neither centre, nor train A, nor clip
    profile = "paper" if by_stages else ("paper", "released")[int(rng.integers(2))]
    limit = None if by_stages else (None, 0.05)[int(rng.integers(2))]
    rates: dict[str, Any] = {"lr": 1e-2, "schedule": "constant", "warmup_ratio": 0.0}
    training = TrainSettings(batch_size=int(rng.integers(1, 3)), max_grad_norm=limit, **rates)
    budget: dict[str, Any] = {"r_init": int(rng.integers(1, 6)), "alpha": float(rng.integers(1, 17)), "steps": 2}
    budget |= {"profile": profile, "settings": training, "overwrite": True}
    golden, candidate = folder / "golden", folder / "candidate"
    with threadpool_limits(1, user_api="blas"):
        tr.trace(model, samples, golden, **budget)
    if kind == "threads":
        with threadpool_limits(2, user_api="blas"):
            tr.trace(model, samples, candidate, **budget)
    elif by_stages:
        record(model, samples, golden, candidate, Otherwise(rng), batched=kind == "batched")
    else:
        storage = Precision.of(kind)
        low = type(model)(model.config, {n: storage.rounded(x).astype("float32") for n, x in model.tensors.items()})
        tr.trace(low, samples, candidate, **budget)
    dtype = kind if kind in ("float32", "bfloat16") else None
    return kind, [tr.compare(golden, candidate, checkpoint=weights, dtype=dtype) for weights in (model, None)]


def main(runs: int) -> int:
    """Counts the false alarms over `runs` runs and prints each of them."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(runs):
            kind, reports = one(seed, Path(folder))
            failed = [finding.line()[:300] for report in reports for finding in report.of("fail")]
            if not all(report.passed for report in reports):
                wrong += 1
                print(f"run {seed} ({kind}):", *failed[:3], sep="\n  ")
    print(f"{wrong} false alarms in {runs} runs")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 200) else 0)
