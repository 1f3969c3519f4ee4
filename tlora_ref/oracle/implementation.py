"""The stages of TLoRA as a small protocol, and the reference that keeps it.

A class (or module) that has any of these functions can be checked: a stage it lacks is skipped, never passed. Arrays go
in as NumPy arrays and may come back as anything `numpy.asarray` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tlora_ref import algorithm
from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.adamw import adamw_step
from tlora_ref.method.covariance import second_moment
from tlora_ref.method.sensitivity import sample_sensitivity
from tlora_ref.method.switches import Switches

#: Stage -> where the paper has it, in the order in which a run meets them.
STAGES: dict[str, str] = {
    "loss": "the loss of Eq. 5 (Alg. 1, line 8)",
    "covariance": "Alg. 1, line 9",
    "sensitivity": "Eq. 5 (Alg. 1, line 8)",
    "allocate": "Eq. 6, 7 (Alg. 1, lines 12 to 15)",
    "initialize_a": "Eq. 4 (Alg. 1, lines 16, 17)",
    "forward": "Eq. 1",
    "grad_b": "Eq. 2",
    "adamw_step": "AdamW (arXiv 1711.05101, Alg. 2)",
    "train": "Eq. 2: only B trains",
    "merge": "Eq. 1, merged",
}


class Implementation(Protocol):
    """What can be checked. Every method is optional, and means the same under both profiles but for their switches.

    An implementation may say which precision it works in by an attribute `dtype`: "float64" (the default), "float32",
    "tf32" (float32 storage, products of ten-bit mantissas), "bfloat16" or "float16" (that storage, float32 sums).
    Inputs are then given to it already rounded to that storage.
    """

    def loss(self, logits: Array, labels: Array) -> float:
        """Mean cross entropy of a causal model: logits (T, V) at t score labels (T,) at t + 1; -100 is not scored."""

    def covariance(self, inputs: Sequence[Array]) -> Array:
        """C (d_in, d_in) of one module from its inputs on N samples, each (T_n, d_in)."""

    def sensitivity(self, W: Array, gradients: Sequence[Array]) -> float:
        """S of one module from W (d_out, d_in) and dLoss_n/dW of N samples, each (d_out, d_in)."""

    def allocate(
        self, sensitivity: Array, shapes: Sequence[tuple[int, int]], r_init: int, alpha: float
    ) -> tuple[Array, Array]:
        """Ranks used (L,) and scales alpha_i / r_i (L,) from S (L,) and each module's (d_out, d_in)."""

    def initialize_a(self, W: Array, C: Array, r: int) -> Array:
        """A (r, d_in) from W (d_out, d_in) and C (d_in, d_in)."""

    def forward(self, x: Array, W: Array, A: Array, B: Array, scale: float) -> Array:
        """y (T, d_out) of the adapted module for x (T, d_in)."""

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        """dL/dB (d_out, r) from the module's input x (T, d_in) and the gradient dy (T, d_out) of its output."""

    def adamw_step(
        self,
        B: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> tuple[Array, Array, Array]:
        """The new B, exp_avg and exp_avg_sq; `step` is 1 for the first."""

    def train(
        self, A: Array, x: Sequence[Array], dy: Sequence[Array], scale: float, lr: Sequence[float]
    ) -> tuple[Array, Array]:
        """A and B after K steps of AdamW (torch's defaults) from B = 0, for given x_t, dy_t and learning rates."""

    def merge(self, W: Array, A: Array, B: Array, scale: float) -> Array:
        """W' (d_out, d_in)."""


class Reference:
    """This library's own functions behind the protocol, in float64: the kit is run over it like over any other."""

    def __init__(self, switches: Switches | None = None) -> None:
        self.switches = switches or Switches()

    def loss(self, logits: Array, labels: Array) -> float:
        """See `Implementation.loss`; log-sum-exp with the maximum taken out."""
        scores, targets = logits[:-1].astype(np.float64), np.asarray(labels)[1:]
        kept = targets != -100
        scores, targets = scores[kept], targets[kept]
        top = scores.max(axis=1)
        log_sum = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
        return float((log_sum - scores[np.arange(len(targets)), targets]).mean())

    def covariance(self, inputs: Sequence[Array]) -> Array:
        """See `Implementation.covariance`."""
        terms = [second_moment(X, centre=self.switches.centre) for X in inputs]
        return np.asarray(sum(terms[1:], start=terms[0]) / len(terms))

    def sensitivity(self, W: Array, gradients: Sequence[Array]) -> float:
        """See `Implementation.sensitivity`."""
        return float(sum(float(sample_sensitivity(W, dW)) for dW in gradients) / len(gradients))

    def allocate(
        self, sensitivity: Array, shapes: Sequence[tuple[int, int]], r_init: int, alpha: float
    ) -> tuple[Array, Array]:
        """See `Implementation.allocate`."""
        given = algorithm.allocate(np.asarray(sensitivity), list(shapes), r_init, alpha, self.switches)
        return given.rank, given.scale

    def initialize_a(self, W: Array, C: Array, r: int) -> Array:
        """See `Implementation.initialize_a`."""
        return algorithm.initialize(W, C, r, self.switches)[0]

    def forward(self, x: Array, W: Array, A: Array, B: Array, scale: float) -> Array:
        """See `Implementation.forward`."""
        return low_rank.adapted_output(x, W, A, B, scale)

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        """See `Implementation.grad_b`."""
        return low_rank.gradient_B(dy.T @ x, A, scale)

    def adamw_step(
        self,
        B: Array,
        grad: Array,
        exp_avg: Array,
        exp_avg_sq: Array,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> tuple[Array, Array, Array]:
        """See `Implementation.adamw_step`."""
        return adamw_step(
            B, grad, exp_avg, exp_avg_sq, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
        )

    def train(
        self, A: Array, x: Sequence[Array], dy: Sequence[Array], scale: float, lr: Sequence[float]
    ) -> tuple[Array, Array]:
        """See `Implementation.train`."""
        B = np.zeros((dy[0].shape[1], A.shape[0]), dtype=A.dtype)
        exp_avg, exp_avg_sq = np.zeros_like(B), np.zeros_like(B)
        for t in range(len(x)):
            G = dy[t].T @ x[t]  # (d_out, d_in)
            B, exp_avg, exp_avg_sq = adamw_step(
                B, low_rank.gradient_B(G, A, scale), exp_avg, exp_avg_sq, step=t + 1, lr=lr[t]
            )
        return A, B

    def merge(self, W: Array, A: Array, B: Array, scale: float) -> Array:
        """See `Implementation.merge`."""
        return low_rank.merged_weight(W, A, B, scale)
