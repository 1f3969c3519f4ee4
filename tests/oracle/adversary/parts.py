"""TLoRA of a Llama in PyTorch, cut into parts that can each be put wrong. Written for the adversary, from the paper.

`Parts()` is right; a mistake is one that has another function in one place. Every part works in the dtype of what it is
given, as PyTorch programs do: norms and softmax in float32 at least, everything else in the storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

T = torch.Tensor


def wide(x: T) -> T:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- the model ----


def rms(x: T, weight: T, eps: float) -> T:
    h = wide(x)
    return weight * (h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps)).to(x.dtype)


def angles(length: int, d: int, theta: float, first: int = 0) -> T:
    """(T, d/2), in float64."""
    at = torch.arange(first, first + length, dtype=torch.float64)[:, None]
    return at / theta ** (torch.arange(d // 2, dtype=torch.float64) / (d // 2))


def turned(x: T, angle: T) -> T:
    """Halves of the last axis rotated by `angle`; x is (batch, heads, T, d)."""
    cos, sin = (f(angle).to(x.dtype) for f in (torch.cos, torch.sin))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rotate(x: T, theta: float) -> T:
    return turned(x, angles(x.shape[-2], x.shape[-1], theta))


def causal(length: int, layer: int) -> T:
    """(T, T): 0 where a token may look, -inf where not."""
    return torch.full((length, length), -math.inf).triu(1)


def softmax(scores: T) -> T:
    return wide(scores).softmax(-1).to(scores.dtype)


def split(x: T, heads: int) -> T:
    """(batch, T, heads d) to (batch, heads, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join(x: T) -> T:
    return x.transpose(1, 2).flatten(2)


# ---- the data and the loss ----


def cross_entropy(logits: T, labels: T) -> T:
    """Mean over the labelled tokens of the batch, shifted by one; (batch, T, V) and (batch, T)."""
    return F.cross_entropy(wide(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


# ---- the method ----


def second_moments(X: list[T]) -> T:
    return torch.stack([wide(x).T @ wide(x) for x in X]).mean(0)


def mean_products(W: T, G: list[T]) -> T:
    return torch.stack([(wide(W) * wide(g)).abs().mean() for g in G]).mean()


def shares(S: T, r_init: int) -> T:
    """The exact ranks of Eq. 6."""
    return len(S) * r_init * S / S.sum()


def ranks(S: T, shapes: list[tuple[int, int]], r_init: int) -> T:
    caps = torch.tensor([min(shape) for shape in shapes])
    return torch.minimum(shares(S, r_init).round().long(), caps)


def scales(S: T, rank: T, r_init: int, alpha: float) -> T:
    return alpha / r_init * S / S.mean()


def right_vectors(W: T, C: T, r: int) -> T:
    return torch.linalg.svd(wide(W) @ wide(C))[2][:r]


# ---- training ----


def low_rank(x: T, A: T, B: T, scale: float) -> T:
    return scale * ((x @ A.T) @ B.T)


def clip(gradients: dict[str, T], most: float) -> dict[str, T]:
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()]))
    factor = torch.clamp(most / (norm + 1e-6), max=1.0)
    return {m: g * factor for m, g in gradients.items()}


@dataclass
class Moments:
    """Of one matrix."""

    m: T
    v: T


def adamw(
    B: T, g: T, s: Moments, *, step: int, lr: float, betas: tuple[float, float], eps: float, decay: float
) -> tuple[T, Moments]:
    """As torch's single-tensor AdamW: every operation rounds to the storage."""
    m = s.m.lerp(g, 1 - betas[0])
    v = (s.v * betas[1]).addcmul(g, g, value=1 - betas[1])
    root = (v.sqrt() / math.sqrt(1 - betas[1] ** step)) + eps
    return (B * (1 - lr * decay)).addcdiv(m, root, value=-lr / (1 - betas[0] ** step)), Moments(m, v)


def merge(W: T, A: T, B: T, scale: float) -> T:
    return W + scale * (B @ A)


def same(x: Any) -> Any:
    return x


@dataclass(frozen=True)
class Parts:
    """One function a place; the defaults are right."""

    # the model
    weight: Callable[[dict[str, T], str], T] = lambda W, name: W[f"{name}.weight"]
    embedded: Callable[[T], T] = same
    norm: Callable[[T, T, float], T] = rms
    last_norm: Callable[[T, T, float], T] | None = None  # as `norm`
    rotate_q: Callable[[T, float], T] = rotate
    rotate_k: Callable[[T, float], T] = rotate
    rotate_v: Callable[[T, float], T] = lambda v, theta: v
    split: Callable[[T, int], T] = split
    join: Callable[[T], T] = join
    expand: Callable[[T, int], T] = lambda k, n: k.repeat_interleave(n // k.shape[1], dim=1)
    divisor: Callable[[int, int], float] = lambda d, width: math.sqrt(d)
    mask: Callable[[int, int], T] = causal
    softmax: Callable[[T], T] = softmax
    values: Callable[[T, T], T] = lambda k, v: v  # what attention adds up
    mlp: Callable[[T, T], T] = lambda gate, up: F.silu(gate) * up
    mlp_input: Callable[[T, T], T] = lambda x, normed: normed
    after_attention: Callable[[T, T], T] = lambda x, y: x + y
    after_mlp: Callable[[T, T], T] = lambda x, y: x + y
    layers: Callable[[int], list[int]] = lambda n: list(range(n))
    head: Callable[[dict[str, T]], T] = lambda W: W["lm_head.weight"]
    logits: Callable[[T], T] = same
    # the data and the loss
    samples: Callable[[list[tuple[T, T]]], list[tuple[T, T]]] = same
    sample: Callable[[T, T], tuple[T, T]] = lambda ids, labels: (ids, labels)
    batch: Callable[[T, T], tuple[T, T]] = lambda ids, labels: (ids, labels)
    batches: Callable[[list[Any]], list[Any]] = same
    loss: Callable[[T, T], T] = cross_entropy
    train_loss: Callable[[T, T], T] | None = None  # as `loss`
    # the method
    seen: Callable[[dict[str, T], str], T] = lambda X, name: X[name]  # what C is made of
    scored_inputs: Callable[[T, T], T] = lambda x, labels: x
    covariance: Callable[[list[T]], T] = second_moments
    sensitivity: Callable[[T, list[T]], T] = mean_products
    ranks: Callable[[T, list[tuple[int, int]], int], T] = ranks
    scales: Callable[[T, T, int, float], T] = scales
    C_of: Callable[[dict[str, T], str], T] = lambda C, name: C[name]
    A: Callable[[T, T, int], T] = right_vectors
    # training
    low_rank: Callable[[T, T, T, float], T] = low_rank
    first_B: Callable[[tuple[int, int]], T] = torch.zeros
    gradients: Callable[[dict[str, T], dict[str, T], dict[str, float]], dict[str, T]] = lambda new, old, scale: new
    clip: Callable[[dict[str, T], float], dict[str, T]] = clip
    rate: Callable[[int, list[float]], float] = lambda t, rates: rates[t - 1]
    told_rate: Callable[[int, list[float]], float] = lambda t, rates: rates[t - 1]
    moments: Callable[[Moments, int], Moments] = lambda s, t: s  # before a step
    adamw: Callable[..., tuple[T, Moments]] = adamw
    stored: Callable[[T], T] = same  # B after a step
    next_A: Callable[[T, T], T] = lambda A, slope: A
    kept: Callable[[list[Any]], Any] = lambda states: states[-1]  # of all steps, what is merged
    merge: Callable[[T, T, T, float], T] = merge
