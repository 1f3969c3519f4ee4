"""TLoRA in JAX, jitted, in float32, run through the conformance kit. Needs jax.

python examples/04_check_jax.py               # or: tlora-ref check examples/04_check_jax.py:TLoRA
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import tlora_ref as tr


class TLoRA:
    """The stages that a JAX training loop has; the optimizer is left to optax, so `adamw_step` is not here."""

    dtype = "float32"

    def loss(self, logits: Any, labels: Any) -> Any:
        """Mean cross entropy, shifted by one; the gather is kept inside by the mask."""
        kept = labels[1:] != -100
        log_p = jax.nn.log_softmax(jnp.asarray(logits)[:-1])
        picked = jnp.take_along_axis(log_p, jnp.where(kept, labels[1:], 0)[:, None], axis=1)[:, 0]
        return -jnp.sum(picked * kept) / kept.sum()

    def covariance(self, inputs: list[Any]) -> Any:
        """Alg. 1, line 9."""
        return sum(jax.jit(lambda X: X.T @ X)(X) for X in inputs) / len(inputs)

    def sensitivity(self, W: Any, gradients: list[Any]) -> Any:
        """Eq. 5."""
        return jnp.mean(jnp.stack([jnp.abs(W * dW).mean() for dW in gradients]))

    def allocate(self, sensitivity: Any, shapes: Any, r_init: int, alpha: float) -> tuple[Any, Any]:
        """Eq. 6 and 7: on the host, as sizes of arrays must be."""
        total = sensitivity.sum()
        if not (np.isfinite(total) and total > 0):
            raise ValueError("no share of the budget is defined")
        ranks = np.rint(len(sensitivity) * r_init * sensitivity / total).astype(int)
        return np.minimum(ranks, [min(shape) for shape in shapes]), alpha / r_init * sensitivity / sensitivity.mean()

    def initialize_a(self, W: Any, C: Any, r: int) -> Any:
        """Eq. 4."""
        return jnp.linalg.svd(jnp.asarray(W) @ C, full_matrices=True)[2][:r]

    def forward(self, x: Any, W: Any, A: Any, B: Any, scale: float) -> Any:
        """Eq. 1."""
        return jnp.asarray(x) @ W.T + scale * ((jnp.asarray(x) @ A.T) @ B.T)

    def grad_b(self, x: Any, dy: Any, A: Any, B: Any, scale: float) -> Any:
        """Eq. 2, by jax.grad."""
        return jax.grad(lambda B: jnp.vdot(scale * (x @ A.T @ B.T), dy))(jnp.asarray(B))

    def merge(self, W: Any, A: Any, B: Any, scale: float) -> Any:
        """Eq. 1, merged."""
        return W + scale * (jnp.asarray(B) @ A)


if __name__ == "__main__":
    report = tr.check_implementation(TLoRA(), examples=5)  # every shape compiles anew
    print(report)
    print("right" if report.passed else f"wrong: {report.first_failing}; likely cause: {report.cause}")
    sys.exit(not report.passed)
