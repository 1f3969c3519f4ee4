# ruff: noqa: E501 (one variant a line)
"""Right runs that differ in what is free: none of them may be called wrong.

Sums are made in the plainest order there is, one term after the other; norms, softmax and losses in the storage or in
float32; A has other signs and another order of its rows; the merge and AdamW round after each operation, or at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.oracle.adversary.parts import Moments, Parts, adamw, angles, ranks, right_vectors, turned, wide

T = torch.Tensor
ALL = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Variant:
    """A right way to run; `adapters` is the dtype of A and B where it is another than the model's."""

    name: str
    parts: dict[str, Any] = field(default_factory=dict, hash=False)
    precisions: tuple[str, ...] = ALL
    adapters: torch.dtype | None = None

    def made(self) -> Parts:
        return Parts(**self.parts)


def one_by_one(x: T, dim: int = -1) -> T:
    """A sum made term after term in the dtype of x, as a plain loop makes it."""
    return torch.from_numpy(np.cumsum(x.detach().numpy(), axis=dim, dtype=x.detach().numpy().dtype)).select(dim, -1)


class NaiveLoss(torch.autograd.Function):
    """Mean cross entropy whose every sum is made one term after the other; `largest` is taken out first or not."""

    @staticmethod
    def forward(ctx: Any, z: T, labels: T, largest: bool) -> T:
        kept = labels != -100
        scores, targets = z[kept], labels[kept]
        top = scores.max(-1, keepdim=True)[0] if largest else torch.zeros(len(scores), 1).to(scores)
        log_sum = one_by_one((scores - top).exp()).log() + top[:, 0]  # (tokens,)
        ctx.save_for_backward(z, labels, log_sum)
        return one_by_one(log_sum - scores.gather(1, targets[:, None])[:, 0]) / len(targets)

    @staticmethod
    def backward(ctx: Any, *slopes: T) -> Any:
        z, labels, log_sum = ctx.saved_tensors
        kept = labels != -100
        slope = torch.zeros_like(z)
        p = (z[kept] - log_sum[:, None]).exp()
        p[torch.arange(len(p)), labels[kept]] -= 1
        slope[kept] = p / len(p) * slopes[0]
        return slope, None, None


def naive(largest: bool) -> Any:
    return lambda z, y: NaiveLoss.apply(wide(z[:, :-1]).flatten(0, 1), y[:, 1:].flatten(), largest)


def by_log_softmax(z: T, y: T) -> T:
    log_p, targets = wide(z[:, :-1]).log_softmax(-1), y[:, 1:]
    kept = targets != -100
    return -(log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * kept).sum() / kept.sum()


def in_storage(z: T, y: T) -> T:
    """The loss of logits as they are stored."""
    return F.cross_entropy(z[:, :-1].flatten(0, 1), y[:, 1:].flatten(), ignore_index=-100)


def in_jax(z: T, y: T) -> T:
    """jax.nn.log_softmax and its gradient; where JAX is missing this variant is left out."""
    return JaxLoss.apply(wide(z[:, :-1]).flatten(0, 1), y[:, 1:].flatten())


class JaxLoss(torch.autograd.Function):
    """Mean cross entropy in JAX."""

    @staticmethod
    def forward(ctx: Any, z: T, labels: T) -> T:
        import jax
        import jax.numpy as jnp

        kept, targets = labels.numpy() != -100, labels.clamp(min=0).numpy()

        def loss(logits: Any) -> Any:
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]
            return -(picked * kept).sum() / kept.sum()

        value, slope = jax.value_and_grad(loss)(jnp.asarray(z.detach().numpy()))
        ctx.save_for_backward(torch.from_numpy(np.array(slope)))
        return torch.tensor(float(value), dtype=z.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: T) -> Any:
        return ctx.saved_tensors[0] * slopes[0], None


def plain_norm(x: T, weight: T, eps: float) -> T:
    """Every operation in the storage."""
    return weight * (x / ((x * x).mean(-1, keepdim=True) + eps).sqrt())


def token_by_token(X: list[T]) -> T:
    total = torch.zeros(X[0].shape[1], X[0].shape[1]).to(wide(X[0]))
    for x in X:
        for row in wide(x):
            total += torch.outer(row, row)
    return total / len(X)


def in_bfloat16(X: list[T]) -> T:
    """As a model in bfloat16 gathers it: each product stored, the sum stored."""
    total = X[0].T @ X[0]
    for x in X[1:]:
        total = total + x.T @ x
    return total / len(X)


def entry_by_entry(W: T, G: list[T]) -> T:
    return sum(one_by_one((wide(W) * wide(g)).abs().flatten()) for g in G) / W.numel() / len(G)


def flipped(W: T, C: T, r: int) -> T:
    A = right_vectors(W, C, r)
    return A * torch.where(torch.arange(r) % 2 == 0, -1.0, 1.0).to(A)[:, None]


def of_transpose(W: T, C: T, r: int) -> T:
    return torch.linalg.svd((wide(W) @ wide(C)).T.contiguous())[0].T[:r]


def fused(B: T, g: T, s: Moments, **options: Any) -> tuple[T, Moments]:
    """AdamW in float32 at least, rounded once at the end."""
    new, moments = adamw(wide(B), wide(g), Moments(wide(s.m), wide(s.v)), **options)
    return new.to(B.dtype), Moments(moments.m.to(B.dtype), moments.v.to(B.dtype))


def clipped_together(G: dict[str, T], most: float) -> dict[str, T]:
    norm = math.sqrt(sum(float(wide(g).square().sum()) for g in G.values()))
    return {m: g * min(1.0, most / (norm + 1e-6)) for m, g in G.items()}


def late(x: T, theta: float) -> T:
    """Positions from 5: attention sees differences alone."""
    return turned(x, angles(x.shape[-2], x.shape[-1], theta, 5))


VARIANTS = [
    Variant("plain"),
    Variant("adapters in float32", precisions=("bfloat16",), adapters=torch.float32),
    Variant("softmax in the storage", {"softmax": lambda s: s.softmax(-1)}),
    Variant("norms in the storage", {"norm": plain_norm}),
    Variant("loss summed one by one", {"loss": naive(True)}),
    Variant("loss without the largest taken out", {"loss": naive(False)}),
    Variant("loss by log-softmax", {"loss": by_log_softmax}),
    Variant("loss in the storage", {"loss": in_storage}, ("bfloat16",)),
    Variant("loss in JAX", {"loss": in_jax}, ("float32", "bfloat16")),
    Variant("C token by token", {"covariance": token_by_token}),
    Variant("C in bfloat16", {"covariance": in_bfloat16}, ("bfloat16",)),
    Variant("S entry by entry", {"sensitivity": entry_by_entry}),
    Variant("S in the storage", {"sensitivity": lambda W, G: torch.stack([(W * g).abs().mean() for g in G]).mean()}),
    Variant("signs of A", {"A": flipped}),
    Variant("order of A's rows", {"A": lambda W, C, r: right_vectors(W, C, r).flip(0)}),
    Variant("SVD of the transpose", {"A": of_transpose}),
    Variant("SVD in float64", {"A": lambda W, C, r: right_vectors(W.double(), C.double(), r)}),
    Variant("rope from position 5", {"rotate_q": late, "rotate_k": late}),
    Variant("AdamW fused", {"adamw": fused}),
    Variant("clipped by one norm", {"clip": clipped_together}),
    Variant("x scaled first", {"low_rank": lambda x, A, B, s: (s * x) @ A.T @ B.T}),
    Variant("x (s B A)^T", {"low_rank": lambda x, A, B, s: x @ (s * B @ A).T}),
    Variant("merged by s B first", {"merge": lambda W, A, B, s: W + s * B @ A}),
    Variant("merged by s A first", {"merge": lambda W, A, B, s: W + B @ (s * A)}),
    Variant("merged in float32", {"merge": lambda W, A, B, s: (wide(W) + s * wide(B) @ wide(A)).to(W.dtype)}),
    Variant("merged with the update stored", {"merge": lambda W, A, B, s: W + (s * (wide(B) @ wide(A))).to(W.dtype)}),
    Variant("merged row by row", {"merge": lambda W, A, B, s: sum((s * torch.outer(B[:, k], A[k]) for k in range(len(A))), start=W)}, ("float64", "float32")),
    Variant("ranks in float64", {"ranks": lambda S, shapes, r: ranks(S.double(), shapes, r)}),
]  # fmt: skip
