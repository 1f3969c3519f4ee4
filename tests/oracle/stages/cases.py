"""Inputs of every stage, of random small shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlora_ref.oracle.precision import Precision

DTYPES = ("float64", "float32", "bfloat16", "float16", "tf32")


def cases(seed: int, precision: Precision, r: int | None = None) -> dict[str, dict[str, Any]]:
    """Inputs of every stage, of random small shapes, rounded to the storage."""
    rng = np.random.default_rng(seed)
    tokens, d_in, d_out, rank, n = (int(rng.integers(1, top)) for top in (20, 30, 30, 8, 5))
    rank = min(r or rank, d_in, d_out)

    def normal(*shape: int) -> np.ndarray:
        return precision.rounded(rng.normal(size=shape))

    A = precision.rounded(np.linalg.qr(rng.normal(size=(d_in, rank)))[0].T)
    W, B, x, dy = normal(d_out, d_in), normal(d_out, rank), normal(tokens, d_in), normal(tokens, d_out)
    X = [normal(int(rng.integers(1, 9)), d_in) for _ in range(n)]
    labels = rng.integers(0, 11, size=tokens + 3)
    labels[:2] = -100
    return {
        "loss": {"logits": normal(tokens + 3, 11), "labels": labels},
        "covariance": {"inputs": X},
        "sensitivity": {"W": W, "gradients": [normal(d_out, d_in) for _ in range(n)]},
        "allocate": {
            "sensitivity": precision.rounded(np.abs(rng.normal(size=6))),
            "shapes": [(d_out, d_in)] * 6,
            "r_init": 3,
            "alpha": 4.0,
        },
        "initialize_a": {"W": W, "C": precision.rounded(sum(a.T @ a for a in X) / n), "r": rank},
        "forward": {"x": x, "W": W, "A": A, "B": B, "scale": 0.7},
        "grad_b": {"x": x, "dy": dy, "A": A, "B": B, "scale": 0.7},
        "adamw_step": {
            **{"B": B, "grad": normal(d_out, rank), "exp_avg": normal(d_out, rank)},
            **{"exp_avg_sq": precision.rounded(np.abs(rng.normal(size=(d_out, rank)))), "step": 3, "lr": 1e-2},
            **{"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        },
        "train": {
            **{"A": A, "x": [normal(tokens, d_in) for _ in range(4)]},
            **{"dy": [normal(tokens, d_out) for _ in range(4)], "scale": 0.7, "lr": [0.01, 0.02, 0.01, 0.0]},
        },
        "merge": {"W": W, "A": A, "B": B, "scale": 0.7},
    }
