"""TLoRA in PyTorch, every stage a few lines, run through the conformance kit. Needs torch.

python examples/03_check_pytorch.py           # or: tlora-ref check examples/03_check_pytorch.py:TLoRA
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

import tlora_ref as tr


def tensors(*arrays: Any) -> list[Tensor]:
    """NumPy arrays as tensors of the same dtype, in memory of their own."""
    return [torch.tensor(array) for array in arrays]


class TLoRA:
    """What `tlora_ref.oracle.implementation.Implementation` describes; arrays in, tensors out."""

    dtype = "float32"

    def loss(self, logits: Any, labels: Any) -> Tensor:
        """Mean cross entropy, shifted by one."""
        scores, targets = tensors(logits, labels)
        return torch.nn.functional.cross_entropy(scores[:-1], targets[1:])

    def covariance(self, inputs: list[Any]) -> Tensor:
        """Alg. 1, line 9."""
        return torch.stack([X.T @ X for X in tensors(*inputs)]).mean(dim=0)

    def sensitivity(self, W: Any, gradients: list[Any]) -> Tensor:
        """Eq. 5."""
        weight, *dW = tensors(W, *gradients)
        return torch.stack([(weight * g).abs().mean() for g in dW]).mean()

    def allocate(self, sensitivity: Any, shapes: Any, r_init: int, alpha: float) -> tuple[Tensor, Tensor]:
        """Eq. 6 and 7."""
        (S,) = tensors(sensitivity)
        if not (torch.isfinite(S).all() and S.sum() > 0):
            raise ValueError("no share of the budget is defined")
        ranks = torch.round(len(S) * r_init * S / S.sum()).long()  # ties to even, as Eq. 6 wants
        return torch.minimum(ranks, torch.tensor([min(shape) for shape in shapes])), alpha / r_init * S / S.mean()

    def initialize_a(self, W: Any, C: Any, r: int) -> Tensor:
        """Eq. 4."""
        weight, moment = tensors(W, C)
        return torch.linalg.svd(weight @ moment, full_matrices=True).Vh[:r]

    def forward(self, x: Any, W: Any, A: Any, B: Any, scale: float) -> Tensor:
        """Eq. 1."""
        x, W, A, B = tensors(x, W, A, B)
        return x @ W.T + scale * (x @ A.T @ B.T)

    def grad_b(self, x: Any, dy: Any, A: Any, B: Any, scale: float) -> Tensor:
        """Eq. 2, by torch's own autograd."""
        x, dy, A, B = tensors(x, dy, A, B)
        B.requires_grad_()
        (scale * (x @ A.T @ B.T) * dy).sum().backward()
        assert B.grad is not None
        return B.grad

    def adamw_step(
        self, B: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, *, step: int, **settings: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """torch.optim.AdamW, set to the state it is given."""
        weight, gradient, m, v = tensors(B, grad, exp_avg, exp_avg_sq)
        parameter = torch.nn.Parameter(weight)
        optimizer = torch.optim.AdamW([parameter], **settings)
        optimizer.state[parameter] = {"step": torch.tensor(step - 1.0), "exp_avg": m, "exp_avg_sq": v}
        parameter.grad = gradient
        optimizer.step()
        return parameter.detach(), m, v

    def train(self, A: Any, x: list[Any], dy: list[Any], scale: float, lr: list[float]) -> tuple[Tensor, Tensor]:
        """B alone, from zero."""
        (frozen,) = tensors(A)
        B = torch.nn.Parameter(torch.zeros(dy[0].shape[1], len(A), dtype=frozen.dtype))
        optimizer = torch.optim.AdamW([B])
        for t, rate in enumerate(lr):
            B.grad = self.grad_b(x[t], dy[t], A, B.detach().numpy(), scale)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        return frozen, B.detach()

    def merge(self, W: Any, A: Any, B: Any, scale: float) -> Tensor:
        """Eq. 1, merged."""
        W, A, B = tensors(W, A, B)
        return W + scale * (B @ A)


if __name__ == "__main__":
    report = tr.check_implementation(TLoRA())
    print(report)
    print("right" if report.passed else f"wrong: {report.first_failing}; likely cause: {report.cause}")
    sys.exit(not report.passed)
