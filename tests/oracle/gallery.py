# ruff: noqa: E501 (one mistake a line)
"""A gallery of wrong TLoRAs: each is the reference with one mistake planted, written from scratch, not from the judges.

An entry names the stage of a trace that must be the first to fail, and a piece of the likely cause that must be named
(None where no cause is claimed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.oracle.implementation import Reference

Array = np.ndarray
RIGHT = Reference()


@dataclass(frozen=True)
class Wrong:
    """`method` of the reference replaced by `function`."""

    name: str
    method: str
    function: Callable[..., Any]
    stage: str
    cause: str | None

    def implementation(self) -> Reference:
        """The reference with the mistake in it."""
        planted = Reference()
        setattr(planted, self.method, self.function)
        return planted


def log_softmax_loss(
    logits: Array, labels: Array, *, shift: int = 1, mean: bool = True, everywhere: bool = False
) -> float:
    scores, targets = (logits[:-shift], labels[shift:]) if shift else (logits, labels)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    picked = [float("inf") if p[i, t] == 0 else -np.log(p[i, t]) for i, t in enumerate(targets) if t >= 0]
    return float(sum(picked) / (1 if not mean else len(targets) if everywhere else len(picked)))


def moments(inputs: list[Array], change: Callable[[Array], Array] = lambda x: x) -> Array:
    return np.mean([change(x).T @ change(x) for x in inputs], axis=0)


def scores(W: Array, gradients: list[Array], one: Callable[[Array], float]) -> float:
    return float(np.mean([one(W * g) for g in gradients]))


def ranked(S: Array, shapes: Any, r_init: int, alpha: float, rule: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Ranks by `rule` of the exact shares of the budget, cut as the paper profile does; right scales."""
    if not (np.isfinite(S).all() and S.sum() > 0):
        raise ValueError("no share is defined")
    exact = len(S) * r_init * S / S.sum()
    cap = np.array([min(shape) for shape in shapes])
    return np.minimum(rule(exact), cap).astype(int), S / S.mean() * alpha / r_init


def scaled(
    S: Array, shapes: Any, r_init: int, alpha: float, rule: Callable[[Array, Array], Array]
) -> tuple[Array, Array]:
    """Right ranks; scales by `rule` of the right scales and the ranks."""
    ranks, scales = ranked(S, shapes, r_init, alpha, np.rint)
    return ranks, rule(scales, ranks)


def rows(W: Array, C: Array, r: int, matrix: Callable[[Array, Array], Array]) -> Array:
    return np.linalg.svd(matrix(W, C))[2][:r]


def rotated(W: Array, C: Array, r: int) -> Array:
    """The right row space, by other rows."""
    A = np.linalg.svd(W @ C)[2][:r]
    return np.linalg.qr(np.random.default_rng(0).normal(size=(len(A), len(A))))[0] @ A


def root(C: Array) -> Array:
    values, vectors = np.linalg.eigh(C)
    return vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T


def adam(
    B: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float, betas: Any, eps: float, weight_decay: float,
    **slip: Any,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """AdamW with one slip by name."""
    b1, b2 = reversed(betas) if slip.get("swapped") else betas
    if slip.get("l2"):
        grad = grad + weight_decay * B
    m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * (np.abs(grad) if slip.get("absolute") else grad**2)
    t = step + slip.get("late", 0)
    m_hat = m if slip.get("no_m") else m / (1 - b1**t)
    v_hat = v if slip.get("no_v") else v / (1 - b2**t)
    root_v = np.sqrt(v_hat + eps) if slip.get("inside") else np.sqrt(v_hat) + eps
    decay = 0.0 if slip.get("l2") or slip.get("no_decay") else weight_decay * (1.0 if slip.get("undamped") else lr)
    sign = -1.0 if slip.get("uphill") else 1.0
    return B * (1 - decay) - sign * lr * m_hat / root_v, m, v


def slip(**kind: Any) -> Callable[..., Any]:
    def step(B: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, **options: Any) -> Any:
        return adam(B, grad, exp_avg, exp_avg_sq, **options, **kind)

    return step


def of_first(change: Callable[[Array], Array]) -> Callable[..., Any]:
    """AdamW whose new B is changed afterwards."""

    def step(B: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, **options: Any) -> Any:
        new, m, v = adam(B, grad, exp_avg, exp_avg_sq, **options)
        return change(new), m, v

    return step


def centred(x: Array) -> Array:
    return x - x.mean(axis=0)


GALLERY: list[Wrong] = [
    Wrong("labels not shifted", "loss", lambda logits, labels: log_softmax_loss(logits, labels, shift=0), "loss", "not shifted"),
    Wrong("labels shifted twice", "loss", lambda logits, labels: log_softmax_loss(logits, labels, shift=2), "loss", "twice"),
    Wrong("summed loss", "loss", lambda logits, labels: log_softmax_loss(logits, labels, mean=False), "loss", "summed"),
    Wrong("loss over all tokens", "loss", lambda logits, labels: log_softmax_loss(logits, labels, everywhere=True), "loss", "all tokens"),
    Wrong("centred C", "covariance", lambda inputs: moments(inputs, centred), "covariance", "`released` switch"),
    Wrong("C summed", "covariance", lambda inputs: moments(inputs) * len(inputs), "covariance", "not divided by N"),
    Wrong("C by tokens", "covariance", lambda inputs: np.mean([x.T @ x / len(x) for x in inputs], axis=0), "covariance", "by its tokens"),
    Wrong("C by all tokens", "covariance", lambda inputs: np.concatenate(inputs).T @ np.concatenate(inputs) / sum(map(len, inputs)), "covariance", "all tokens"),
    Wrong("C of the last sample", "covariance", lambda inputs: inputs[-1].T @ inputs[-1], "covariance", "last sample"),
    Wrong("C by N - 1", "covariance", lambda inputs: moments(inputs) * len(inputs) / max(1, len(inputs) - 1), "covariance", "N - 1"),
    Wrong("C without last tokens", "covariance", lambda inputs: moments(inputs, lambda x: x[:-1]), "covariance", "last token"),
    Wrong("diagonal C", "covariance", lambda inputs: moments(inputs) * np.eye(inputs[0].shape[1]), "covariance", "diagonal"),
    Wrong("one C over samples, centred", "covariance", lambda inputs: moments(inputs, lambda x: x - np.concatenate(inputs).mean(axis=0)), "covariance", "mean over all samples"),
    Wrong("mean gradient", "sensitivity", lambda W, gradients: float(np.abs(W * np.mean(gradients, axis=0)).mean()), "sensitivity", "cancel"),
    Wrong("S summed over samples", "sensitivity", lambda W, gradients: scores(W, gradients, lambda p: np.abs(p).mean()) * len(gradients), "sensitivity", "not divided by N"),
    Wrong("S summed over entries", "sensitivity", lambda W, gradients: scores(W, gradients, lambda p: np.abs(p).sum()), "sensitivity", "summed over the entries"),
    Wrong("signed S", "sensitivity", lambda W, gradients: scores(W, gradients, lambda p: abs(p.mean())), "sensitivity", "of the mean"),
    Wrong("squared S", "sensitivity", lambda W, gradients: scores(W, gradients, lambda p: (p**2).mean()), "sensitivity", "mean square"),
    Wrong("S without W", "sensitivity", lambda W, gradients: float(np.mean(np.abs(gradients))), "sensitivity", "without W"),
    Wrong("Frobenius S", "sensitivity", lambda W, gradients: scores(W, gradients, lambda p: np.sqrt((p**2).sum())), "sensitivity", "Frobenius"),
    Wrong("floored ranks", "allocate", lambda *a: ranked(*a, np.floor), "ranks", "floor"),
    Wrong("ceiled ranks", "allocate", lambda *a: ranked(*a, np.ceil), "ranks", "ceil"),
    Wrong("uniform ranks", "allocate", lambda *a: ranked(*a, lambda e: np.full(len(e), np.rint(e.mean()))), "ranks", "not adapted"),
    Wrong("least rank 2", "allocate", lambda *a: ranked(*a, lambda e: np.maximum(np.rint(e), 2)), "ranks", None),
    Wrong("ranks of squares", "allocate", lambda S, shapes, r, a: (ranked(S**2, shapes, r, a, np.rint)[0], ranked(S, shapes, r, a, np.rint)[1]), "ranks", "squared"),
    Wrong("ranks one higher", "allocate", lambda *a: ranked(*a, lambda e: np.rint(e) + 1), "ranks", None),
    Wrong("scale over r_init", "allocate", lambda S, shapes, r, a: scaled(S, shapes, r, a, lambda s, k: s * k / r), "scales", "r_i / r_init"),
    Wrong("plain LoRA's scale", "allocate", lambda S, shapes, r, a: scaled(S, shapes, r, a, lambda s, k: np.full(len(s), a / r)), "scales", "not adapted"),
    Wrong("rounded alpha", "allocate", lambda S, shapes, r, a: scaled(S, shapes, r, a, lambda s, k: np.rint(s * r) / r), "scales", "round_alpha"),
    Wrong("alpha not divided", "allocate", lambda S, shapes, r, a: scaled(S, shapes, r, a, lambda s, k: s * r), "scales", "r_init"),
    Wrong("scale without L", "allocate", lambda S, shapes, r, a: scaled(S, shapes, r, a, lambda s, k: s / len(s)), "scales", "not L alpha"),
    Wrong("left singular vectors", "initialize_a", lambda W, C, r: np.pad(np.linalg.svd(W @ C)[0].T[:r], ((0, 0), (0, max(0, C.shape[0] - W.shape[0]))))[:, : C.shape[0]], "A", None),
    Wrong("W-SVD", "initialize_a", lambda W, C, r: rows(W, C, r, lambda W, C: W), "A", "W-SVD"),
    Wrong("PCA of the inputs", "initialize_a", lambda W, C, r: np.linalg.eigh(C)[1].T[::-1][:r], "A", "PCA"),
    Wrong("W C^1/2", "initialize_a", lambda W, C, r: rows(W, C, r, lambda W, C: W @ root(C)), "A", "C^1/2"),
    Wrong("bottom vectors", "initialize_a", lambda W, C, r: np.linalg.svd(W @ C)[2][::-1][:r], "A", "bottom"),
    Wrong("first vector skipped", "initialize_a", lambda W, C, r: np.roll(np.linalg.svd(W @ C)[2], -1, axis=0)[:r], "A", None),
    Wrong("columns of V^T", "initialize_a", lambda W, C, r: np.linalg.svd(W @ C)[2][:, :r].T, "A", "columns"),
    Wrong("A rotated in its row space", "initialize_a", rotated, "A", "rotated inside"),
    Wrong("random A", "initialize_a", lambda W, C, r: np.linalg.qr(np.random.default_rng(0).normal(size=(len(C), r)))[0].T, "A", None),
    Wrong("A not normalised", "initialize_a", lambda W, C, r: 2.0 * np.linalg.svd(W @ C)[2][:r], "A", None),
    Wrong("gradient without scale", "grad_b", lambda x, dy, A, B, scale: dy.T @ (x @ A.T), "gradient", "left out"),
    Wrong("gradient scaled twice", "grad_b", lambda x, dy, A, B, scale: scale**2 * dy.T @ (x @ A.T), "gradient", "twice"),
    Wrong("gradient of the wrong sign", "grad_b", lambda x, dy, A, B, scale: -scale * dy.T @ (x @ A.T), "gradient", "sign"),
    Wrong("gradient doubled", "grad_b", lambda x, dy, A, B, scale: 2 * scale * dy.T @ (x @ A.T), "gradient", "doubled"),
    Wrong("no bias correction", "adamw_step", slip(no_m=True, no_v=True), "adamw", "no bias correction"),
    Wrong("first moment uncorrected", "adamw_step", slip(no_m=True), "adamw", "exp_avg is not bias-corrected"),
    Wrong("eps in the root", "adamw_step", slip(inside=True), "adamw", "inside the root"),
    Wrong("L2 for decoupled decay", "adamw_step", slip(l2=True), "adamw", "L2"),
    Wrong("no weight decay", "adamw_step", slip(no_decay=True), "adamw", "not decayed"),
    Wrong("undamped decay", "adamw_step", slip(undamped=True), "adamw", "not multiplied by lr"),
    Wrong("betas swapped", "adamw_step", slip(swapped=True), "adamw", "swapped"),
    Wrong("step ahead", "adamw_step", slip(late=1), "adamw", "one step ahead"),
    Wrong("|g| for g^2", "adamw_step", slip(absolute=True), "adamw", "|g|"),
    Wrong("uphill", "adamw_step", slip(uphill=True), "adamw", "uphill"),
    Wrong("B cut", "adamw_step", of_first(lambda B: np.clip(B, -0.005, 0.005)), "adamw", None),
    Wrong("merged without scale", "merge", lambda W, A, B, scale: W + B @ A, "merge", "left out"),
    Wrong("merged with scale twice", "merge", lambda W, A, B, scale: W + scale**2 * B @ A, "merge", "twice"),
    Wrong("merged by subtraction", "merge", lambda W, A, B, scale: W - scale * B @ A, "merge", "subtracted"),
    Wrong("not merged", "merge", lambda W, A, B, scale: W, "merge", "not merged"),
]  # fmt: skip
