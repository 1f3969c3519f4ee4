# ruff: noqa: E501 (one mistake a line)
"""Mistakes of the method: C, S, ranks, scales, A, the adapted module, the merge."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.oracle.adversary.mistakes_model import Mistake
from tests.oracle.adversary.parts import mean_products, second_moments, shares, wide

T = torch.Tensor


def method(stage: str, name: str, cause: str | None = None, golden: str = "plain", **parts: Any) -> Mistake:
    return Mistake(name, "method", stage, cause, parts, golden)


def moments(change: Any) -> Any:
    """C of changed inputs."""
    return lambda X: second_moments([change(x) for x in X])


def centred(x: T) -> T:
    return wide(x) - wide(x).mean(0)


def changed(change: Any) -> Any:
    """C changed afterwards."""
    return lambda X: change(second_moments(X), X)


COVARIANCE = [
    method("covariance", "C centred", "centre", covariance=moments(centred)),
    method("covariance", "C summed", "not divided by N", covariance=changed(lambda C, X: C * len(X))),
    method("covariance", "C over N - 1", "N - 1", covariance=changed(lambda C, X: C * len(X) / (len(X) - 1))),
    method("covariance", "C over N + 1", r"N \+ 1", covariance=changed(lambda C, X: C * len(X) / (len(X) + 1))),
    method("covariance", "C over N twice", "twice", covariance=changed(lambda C, X: C / len(X))),
    method("covariance", "C over each sample's tokens", "its tokens", covariance=moments(lambda x: wide(x) / math.sqrt(len(x)))),
    method("covariance", "C over all tokens", "all tokens", covariance=changed(lambda C, X: C * len(X) / sum(map(len, X)))),
    method("covariance", "C of the last sample", "last sample", covariance=lambda X: second_moments(X[-1:])),
    method("covariance", "C of the first sample", "first sample", covariance=lambda X: second_moments(X[:1])),
    method("covariance", "C without the last sample", "sample", covariance=lambda X: second_moments(X[:-1])),
    method("covariance", "C without the last token", "last token", covariance=moments(lambda x: x[:-1])),
    method("covariance", "C without the first token", "first token", covariance=moments(lambda x: x[1:])),
    method("covariance", "C of the last token", "last token|token", covariance=moments(lambda x: x[-1:])),
    method("covariance", "C of mean inputs", "mean", covariance=moments(lambda x: wide(x).mean(0, keepdim=True))),
    method("covariance", "C of scored tokens alone", "scored|label|prompt|response", scored_inputs=lambda x, labels: x[labels != -100]),
    method("covariance", "C of the prompt alone", "prompt|label|scored", scored_inputs=lambda x, labels: x[labels == -100]),
    method("covariance", "C diagonal", "diagonal", covariance=changed(lambda C, X: C.diag().diag())),
    method("covariance", "C upper triangle", "upper triangle", covariance=changed(lambda C, X: C.triu())),
    method("covariance", "C of |X|", r"\|X\|", covariance=moments(torch.abs)),
    method("covariance", "C of normalised rows", "unit length|normalis", covariance=moments(lambda x: torch.nn.functional.normalize(wide(x), dim=-1))),
    method("covariance", "C of the correlations", "correlation|normalis", covariance=changed(lambda C, X: C / C.diag().sqrt()[:, None] / C.diag().sqrt())),
    method("covariance", "C over its trace", "trace|scaled|multiple", covariance=changed(lambda C, X: C / C.trace())),
    method("covariance", "C damped", "damp|diagonal", covariance=changed(lambda C, X: C + 0.01 * C.diag().mean() * torch.eye(len(C), dtype=C.dtype))),
    method("covariance", "C shrunk", "shrink|shrunk|diagonal", covariance=changed(lambda C, X: 0.99 * C + 0.01 * C.diag().diag())),
    method("covariance", "C a running mean", "running|average|weight", covariance=lambda X: sum(0.9 ** (len(X) - 1 - n) * 0.1 * second_moments([x]) for n, x in enumerate(X))),
    method("covariance", "C a sum over samples first", "sum", covariance=lambda X: second_moments([sum(x[: min(map(len, X))] for x in X)])),
    method("covariance", "C centred over all samples", "mean over all samples", covariance=lambda X: second_moments([wide(x) - wide(torch.cat(X)).mean(0) for x in X])),
    method("covariance", "C unbiased covariance", "centre|unbiased|tokens", covariance=lambda X: torch.stack([torch.cov(wide(x).T) for x in X]).mean(0)),
    method("covariance", "C doubled", "doubled|twice|multiple|2 times", covariance=changed(lambda C, X: 2 * C)),
    method("covariance", "C off by 1e-3", r"1\.001 times", covariance=changed(lambda C, X: 1.001 * C)),
    method("covariance", "C in float16", r"float16|round|1\.001 times", covariance=moments(lambda x: wide(x).half().to(wide(x).dtype) * 1.0005)),
    method("covariance", "C of k for all of attention's output", "module|another", seen=lambda X, name: X[name.replace("o_proj", "q_proj")]),
    method("covariance", "C of another layer", "module|another|layer", seen=lambda X, name: X[name.replace("layers.1", "layers.0")]),
]  # fmt: skip


def of_products(one: Any) -> Any:
    """The mean over the samples of a number of W * dL/dW."""
    return lambda W, G: torch.stack([one(wide(W) * wide(g)) for g in G]).mean()


def running(G: list[T]) -> list[T]:
    """Gradients that are never set to zero."""
    return list(torch.stack(G).cumsum(0))


SENSITIVITY = [
    method("sensitivity", "S of the mean gradient", "cancel", sensitivity=lambda W, G: mean_products(W, [torch.stack(G).mean(0)])),
    method("sensitivity", "S of the summed gradient", "summed gradient", sensitivity=lambda W, G: mean_products(W, [torch.stack(G).sum(0)])),
    method("sensitivity", "S of gradients never zeroed", "zero|accumul", sensitivity=lambda W, G: mean_products(W, running(G))),
    method("sensitivity", "S summed over samples", "not divided by N", sensitivity=lambda W, G: mean_products(W, G) * len(G)),
    method("sensitivity", "S over N - 1", "N - 1", sensitivity=lambda W, G: mean_products(W, G) * len(G) / (len(G) - 1)),
    method("sensitivity", "S over N twice", "twice", sensitivity=lambda W, G: mean_products(W, G) / len(G)),
    method("sensitivity", "S summed over entries", "summed over the entries", sensitivity=of_products(lambda p: p.abs().sum())),
    method("sensitivity", "S summed over rows", "rows", sensitivity=of_products(lambda p: p.abs().sum(0).mean())),
    method("sensitivity", "S summed over columns", "inputs|columns", sensitivity=of_products(lambda p: p.abs().sum(1).mean())),
    method("sensitivity", "S signed", "no absolute", sensitivity=of_products(lambda p: p.mean())),
    method("sensitivity", "S of the mean's size", "of the mean", sensitivity=of_products(lambda p: p.mean().abs())),
    method("sensitivity", "S squared", "mean square", sensitivity=of_products(lambda p: p.square().mean())),
    method("sensitivity", "S root mean square", "root mean square", sensitivity=of_products(lambda p: p.square().mean().sqrt())),
    method("sensitivity", "S Frobenius", "Frobenius", sensitivity=of_products(lambda p: p.norm())),
    method("sensitivity", "S the largest", "largest", sensitivity=of_products(lambda p: p.abs().max())),
    method("sensitivity", "S the median entry", "median", sensitivity=of_products(lambda p: p.abs().median())),
    method("sensitivity", "S without W", "without W", sensitivity=lambda W, G: mean_products(torch.ones_like(W), G)),
    method("sensitivity", "S of squared gradients", "squared", sensitivity=lambda W, G: mean_products(torch.ones_like(W), [g.square() for g in G])),
    method("sensitivity", "S of W alone", "without the gradient", sensitivity=lambda W, G: wide(W).abs().mean()),
    method("sensitivity", "S of W + gradient", r"W \+ gradient", sensitivity=lambda W, G: torch.stack([(wide(W) + wide(g)).abs().mean() for g in G]).mean()),
    method("sensitivity", "S of W^2", r"W\^2", sensitivity=lambda W, G: mean_products(W * W, G)),
    method("sensitivity", "S of means", r"mean\|W\|", sensitivity=lambda W, G: wide(W).abs().mean() * torch.stack([wide(g).abs().mean() for g in G]).mean()),
    method("sensitivity", "S of the first sample", "first sample", sensitivity=lambda W, G: mean_products(W, G[:1])),
    method("sensitivity", "S of the last sample", "last sample", sensitivity=lambda W, G: mean_products(W, G[-1:])),
    method("sensitivity", "S without the last sample", "sample", sensitivity=lambda W, G: mean_products(W, G[:-1])),
    method("sensitivity", "S the median sample", "median", sensitivity=lambda W, G: torch.stack([mean_products(W, [g]) for g in G]).median()),
    method("sensitivity", "S the largest sample", "largest", sensitivity=lambda W, G: torch.stack([mean_products(W, [g]) for g in G]).max()),
    method("sensitivity", "S the root", "root", sensitivity=lambda W, G: mean_products(W, G).sqrt()),
    method("sensitivity", "S over the norm of W", "norm", sensitivity=lambda W, G: mean_products(W, G) / wide(W).norm()),
    method("sensitivity", "S of normed gradients", "norm", sensitivity=lambda W, G: mean_products(W, [g / wide(g).norm() for g in G])),
    method("sensitivity", "S of clipped gradients", "clip", sensitivity=lambda W, G: mean_products(W, [g.clamp(-0.01, 0.01) for g in G])),
    method("sensitivity", "S without the last column", None, sensitivity=lambda W, G: mean_products(W[:, :-1], [g[:, :-1] for g in G])),
    method("sensitivity", "S off by 1e-3", r"1\.001 times", sensitivity=lambda W, G: 1.001 * mean_products(W, G)),
    method("sensitivity", "S of square weights 2 % less", r"0\.98 times", sensitivity=lambda W, G: mean_products(W, G) * (0.98 if W.shape[0] == W.shape[1] else 1.0)),
    method("sensitivity", "S a running mean", "running|average|weight", sensitivity=lambda W, G: sum(0.9 ** (len(G) - 1 - n) * 0.1 * mean_products(W, [g]) for n, g in enumerate(G))),
]  # fmt: skip


def ranked(rule: Any) -> Any:
    """Ranks by a rule of the exact shares, cut as the paper profile does."""

    def ranks(S: T, shapes: list[tuple[int, int]], r_init: int) -> T:
        return torch.minimum(rule(shares(S, r_init)).long(), torch.tensor([min(shape) for shape in shapes]))

    return ranks


def of_scores(change: Any) -> Any:
    """Ranks by the shares of changed scores."""
    return lambda S, shapes, r: ranked(torch.round)(change(S, shapes), shapes, r)


def settled(exact: T) -> T:
    """The largest takes what is left, as the released code has it."""
    rank = exact.round()
    while (left := round(float(exact.sum() - rank.sum()))) != 0:
        rank[rank.argmax()] += math.copysign(1, left)
    return rank


RANKS = [
    method("ranks", "ranks floored", "floor", ranks=ranked(torch.floor)),
    method("ranks", "ranks ceiled", "ceil", ranks=ranked(torch.ceil)),
    method("ranks", "ranks uniform", "not adapted", ranks=ranked(lambda e: e.mean().round().expand(len(e)))),
    method("ranks", "ranks at least 1", "at least", "small", ranks=ranked(lambda e: e.round().clamp(min=1))),
    method("ranks", "ranks at least 2", "at least", ranks=ranked(lambda e: e.round().clamp(min=2))),
    method("ranks", "ranks one higher", "one", ranks=ranked(lambda e: e.round() + 1)),
    method("ranks", "ranks of squares", "squared", ranks=of_scores(lambda S, shapes: S**2)),
    method("ranks", "ranks of roots", "root", ranks=of_scores(lambda S, shapes: S**0.5)),
    method("ranks", "ranks of inverses", "inverse", ranks=of_scores(lambda S, shapes: 1 / S)),
    method("ranks", "ranks by softmax", "softmax", ranks=of_scores(lambda S, shapes: torch.softmax(S, 0))),
    method("ranks", "ranks by size", "size", ranks=of_scores(lambda S, shapes: S * torch.tensor([float(a * b) for a, b in shapes]))),
    method("ranks", "ranks of other modules", "reverse", ranks=of_scores(lambda S, shapes: S.flip(0))),
    method("ranks", "ranks shifted by a module", "module|order|reverse", ranks=of_scores(lambda S, shapes: S.roll(1))),
    method("ranks", "ranks sorted", "order|sorted", ranks=of_scores(lambda S, shapes: S.sort()[0])),
    method("ranks", "ranks cut to r_init", "r_init", ranks=ranked(lambda e: e.round().clamp(max=float(e.mean().round())))),
    method("ranks", "ranks at most twice r_init", "r_init|cut", ranks=ranked(lambda e: e.round().clamp(max=2 * float(e.mean().round())))),
    method("ranks", "ranks even", "even|multiple", ranks=ranked(lambda e: 2 * (e / 2).round())),
    method("ranks", "ranks a power of two", "power", ranks=ranked(lambda e: 2 ** e.clamp(min=1).log2().round())),
    method("ranks", "ranks of the largest share", "largest", ranks=lambda S, shapes, r: ranked(torch.round)(S, shapes, r) * 0 + (r * S / S.max()).round().long()),
    method("ranks", "the largest takes the remainder", "remainder", "small", ranks=ranked(settled)),
    method("ranks", "the budget is r_init", "budget", ranks=ranked(lambda e: (e / len(e)).round())),
    method("ranks", "half the budget", "budget|half", ranks=ranked(lambda e: (e / 2).round())),
    method("ranks", "ranks between adapted and uniform", "half of every rank is r_init", ranks=ranked(lambda e: ((e + e.mean()) / 2).round())),
]  # fmt: skip


def scaled(rule: Any) -> Any:
    """Scales by a rule of the right ones, the ranks, r_init and alpha."""
    return lambda S, rank, r, alpha: rule(alpha / r * S / S.mean(), rank, r, alpha)


SCALES = [
    method("scales", "scales by the rank over r_init", "r_i / r_init", scales=scaled(lambda s, k, r, a: s * k / r)),
    method("scales", "scales of plain LoRA", "not adapted", scales=scaled(lambda s, k, r, a: torch.full_like(s, a / r))),
    method("scales", "alpha over the rank", "alpha / r_i", scales=scaled(lambda s, k, r, a: a / k.clamp(min=1).to(s))),
    method("scales", "alpha over the root of the rank", "root of the rank|rsLoRA", scales=scaled(lambda s, k, r, a: s * k.to(s).sqrt())),
    method("scales", "scales not over the rank", "not divided by the rank", scales=scaled(lambda s, k, r, a: s * k)),
    method("scales", "scales over the rank twice", "twice", scales=scaled(lambda s, k, r, a: s / k.clamp(min=1))),
    method("scales", "scales not over r_init", "not divided by r_init", scales=scaled(lambda s, k, r, a: s * r)),
    method("scales", "scales without L", "not L alpha", scales=scaled(lambda s, k, r, a: s / len(s))),
    method("scales", "scales of squares", "squared", scales=lambda S, k, r, a: a / r * S**2 / (S**2).mean()),
    method("scales", "scales of roots", "root of the sensitivities", scales=lambda S, k, r, a: a / r * S.sqrt() / S.sqrt().mean()),
    method("scales", "scales over the largest S", "largest", scales=lambda S, k, r, a: a / r * S / S.max()),
    method("scales", "scales over the median S", "median", scales=lambda S, k, r, a: a / r * S / S.median()),
    method("scales", "alpha rounded", "round_alpha", scales=scaled(lambda s, k, r, a: (s * r).round() / r)),
    method("scales", "alpha floored", "floor_alpha", scales=scaled(lambda s, k, r, a: s.clamp(min=a / r))),
    method("scales", "scales of other modules", "inverted|module|order", scales=scaled(lambda s, k, r, a: s.flip(0))),
    method("scales", "scales inverted", "inverse|inverted", scales=scaled(lambda s, k, r, a: (a / r) ** 2 / s)),
    method("scales", "scales by the ranks used", "rank", scales=scaled(lambda s, k, r, a: a / r * k / k.to(s).mean())),
    method("scales", "scales squared", "squared|twice", scales=scaled(lambda s, k, r, a: s * s)),
    method("scales", "scales capped at 2", "cap|cut", scales=scaled(lambda s, k, r, a: s.clamp(max=2 * a / r))),
    method("scales", "scales one higher", None, scales=scaled(lambda s, k, r, a: s + 1)),
    method("scales", "scales off by 1e-3", r"1\.001 times", scales=scaled(lambda s, k, r, a: 1.001 * s)),
    method("scales", "no scale at rank 1", None, scales=scaled(lambda s, k, r, a: torch.where(k == 1, 1.0, s))),
]  # fmt: skip


def of_svd(pick: Any) -> Any:
    """A from U, sigma, V^T of W C."""
    return lambda W, C, r: pick(*torch.linalg.svd(wide(W) @ C), r)


def right(make: Any) -> Any:
    """The right singular vectors of another matrix."""
    return lambda W, C, r: torch.linalg.svd(make(wide(W), C))[2][:r]


def root(C: T) -> T:
    values, vectors = torch.linalg.eigh(C)
    return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T


def spun(Vt: T, r: int, degrees: float = 30.0) -> T:
    """The first two rows rotated among themselves: the row space is the same."""
    A = Vt[:r].clone()
    if r > 1:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        A[0], A[1] = c * Vt[0] - s * Vt[1], s * Vt[0] + c * Vt[1]
    return A


def noisy(A: T, size: float) -> T:
    return A + size * torch.randn(A.shape, generator=torch.Generator().manual_seed(1)).to(A)


def square(make: Any, otherwise: Any) -> Any:
    """What can be slipped in for a square W alone."""
    return lambda W, C, r: torch.linalg.svd(make(wide(W), C) if W.shape[0] == W.shape[1] else otherwise(wide(W), C))[2][
        :r
    ]


INITIAL = [
    method("A", "left singular vectors", "left", A=lambda W, C, r: torch.linalg.svd(wide(W) @ C)[0].T[:r] if W.shape[0] == W.shape[1] else torch.linalg.svd(wide(W) @ C)[2][:r]),
    method("A", "columns of V^T", "columns", A=of_svd(lambda U, s, V, r: V[:, :r].T)),
    method("A", "W-SVD", "W-SVD", A=right(lambda W, C: W)),
    method("A", "PCA of the inputs", "PCA", A=lambda W, C, r: torch.linalg.eigh(C)[1].T.flip(0)[:r]),
    method("A", "W C^1/2", r"C\^1/2", A=right(lambda W, C: W @ root(C))),
    method("A", "W C^2", r"C\^2", A=right(lambda W, C: W @ C @ C)),
    method("A", "W^T C", r"W\^T C|transpos", A=square(lambda W, C: W.T @ C, lambda W, C: W @ C)),
    method("A", "C W^T", r"C W\^T|transpos|left", A=square(lambda W, C: C @ W.T, lambda W, C: W @ C)),
    method("A", "of C centred by its diagonal", "diagonal|C", A=right(lambda W, C: W @ C.diag().diag())),
    method("A", "of C with a ridge", "ridge|damp|C", A=right(lambda W, C: W @ (C + 0.1 * C.diag().mean() * torch.eye(len(C)).to(C)))),
    method("A", "of the normed W", "W", A=right(lambda W, C: torch.nn.functional.normalize(W, dim=1) @ C)),
    method("A", "bottom vectors", "bottom", A=of_svd(lambda U, s, V, r: V[: len(s)][-r:])),
    method("A", "first vector skipped", "first", A=of_svd(lambda U, s, V, r: V[1 : r + 1] if len(V) > r else V[:r])),
    method("A", "last vector another", "last row", A=of_svd(lambda U, s, V, r: torch.cat([V[: r - 1], V[r : r + 1]]) if len(V) > r else V[:r])),
    method("A", "random A", "random", A=lambda W, C, r: torch.linalg.qr(torch.randn(len(C), r, generator=torch.Generator().manual_seed(0)))[0].T.to(C)),
    method("A", "Kaiming A", "random|orthonormal", A=lambda W, C, r: (torch.rand(r, len(C), generator=torch.Generator().manual_seed(0)).to(C) * 2 - 1) / math.sqrt(len(C))),
    method("A", "A doubled", "scaled|doubled|norm", A=of_svd(lambda U, s, V, r: 2 * V[:r])),
    method("A", "A times sigma", "singular values", A=of_svd(lambda U, s, V, r: s[:r, None] / s[0] * V[:r] if r <= len(s) else V[:r])),
    method("A", "A times the root of sigma", "roots of the singular", A=of_svd(lambda U, s, V, r: (s[:r, None] / s[0]).sqrt() * V[:r] if r <= len(s) else V[:r])),
    method("A", "A over the root of the rank", "root of the rank", A=of_svd(lambda U, s, V, r: V[:r] / math.sqrt(r))),
    method("A", "A the first rows of W C", "first rows of W C", A=lambda W, C, r: (wide(W) @ C)[:r] if r <= len(W) else torch.eye(len(C)).to(C)[:r]),
    method("A", "A of the identity", "identity", A=lambda W, C, r: torch.eye(len(C)).to(C)[:r]),
    method("A", "A zero", "zero", A=lambda W, C, r: torch.zeros(r, len(C)).to(C)),
    method("A", "A rotated in its row space", "rotat|row", A=of_svd(lambda U, s, V, r: spun(V, r))),
    method("A", "A rotated a little in its row space", "rotat|row", A=of_svd(lambda U, s, V, r: spun(V, r, 3.0))),
    method("A", "A with noise of 1e-2", None, A=of_svd(lambda U, s, V, r: noisy(V[:r], 1e-2))),
    method("A", "A with orthonormal noise of 1e-2", None, A=of_svd(lambda U, s, V, r: torch.linalg.qr(noisy(V[:r], 1e-2).T)[0].T)),
    method("A", "A's rows not of unit length", "orthonormal|length|norm", A=of_svd(lambda U, s, V, r: V[:r] * (1 + 0.01 * torch.arange(r).to(V)[:, None] + 0.01))),
    method("A", "A 0.5 % longer", "longer", A=of_svd(lambda U, s, V, r: 1.005 * V[:r])),
    method("A", "A 0.5 % shorter", "shorter", A=of_svd(lambda U, s, V, r: 0.995 * V[:r])),
    method("A", "A's small entries cut", "small entries", A=of_svd(lambda U, s, V, r: torch.where(V[:r].abs() < 0.01, 0.0, V[:r]))),
    method("A", "A of another module's C", "module|C", C_of=lambda C, name: C[name.replace("layers.1", "layers.0")]),
    method("A", "A of q's C for o", "module|C", C_of=lambda C, name: C[name.replace("o_proj", "q_proj")]),
    method("A", "A of W with its columns reversed", "column|order", A=right(lambda W, C: W.flip(1) @ C)),
    method("A", "A of a low-rank sketch", None, A=lambda W, C, r: torch.linalg.qr((wide(W) @ C).T @ torch.randn(len(W), r, generator=torch.Generator().manual_seed(0)).to(C))[0].T if r <= min(W.shape) else torch.linalg.svd(wide(W) @ C)[2][:r]),
]  # fmt: skip


def low(change: Any) -> Any:
    """An adapter whose forward pass goes another way."""
    return lambda x, A, B, s: change(x, A, B, s)


ADAPTED = [
    method("gradient", "forward without scale", "left out", low_rank=low(lambda x, A, B, s: x @ A.T @ B.T)),
    method("gradient", "forward scaled twice", "twice", low_rank=low(lambda x, A, B, s: s * s * (x @ A.T @ B.T))),
    method("gradient", "forward with alpha", "not divided by the rank", low_rank=low(lambda x, A, B, s: s * len(A) * (x @ A.T @ B.T))),
    method("gradient", "forward over the rank twice", "rank twice", low_rank=low(lambda x, A, B, s: s / len(A) * (x @ A.T @ B.T))),
    method("gradient", "forward subtracts", "sign|subtracted", low_rank=low(lambda x, A, B, s: -s * (x @ A.T @ B.T))),
    method("gradient", "forward adds twice", "doubled|added twice", low_rank=low(lambda x, A, B, s: 2 * s * (x @ A.T @ B.T))),
    method("gradient", "forward leaves a row out", None, low_rank=low(lambda x, A, B, s: s * (x @ A[:-1].T @ B[:, :-1].T) if len(A) > 1 else s * (x @ A.T @ B.T))),
    method("gradient", "forward with rows of A exchanged", "order|row", low_rank=low(lambda x, A, B, s: s * (x @ A.flip(0).T @ B.T))),
    method("gradient", "forward normalises x", "norm", low_rank=low(lambda x, A, B, s: s * (torch.nn.functional.normalize(x, dim=-1) @ A.T @ B.T))),
    method("gradient", "forward with an activation", "activation|gelu|silu|relu", low_rank=low(lambda x, A, B, s: s * (torch.relu(x @ A.T) @ B.T))),
    method("gradient", "forward with first tokens left out", "token", low_rank=low(lambda x, A, B, s: s * ((torch.arange(x.shape[1]) > 3).to(x)[:, None] * x @ A.T @ B.T))),
    method("gradient", "forward without adapters", "zero|left out", low_rank=low(lambda x, A, B, s: 0.0 * (x @ A.T @ B.T))),
    method("gradient", "A is trained", "A was trained", next_A=lambda A, slope: A - 1e-2 * slope if slope.abs().max() > 0 else A * 0.999),
    method("gradient", "A decays", "A was trained|decay", next_A=lambda A, slope: A * (1 - 1e-2)),
    method("gradient", "B starts random", "start|zero", first_B=lambda shape: 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))),
    method("gradient", "B starts at 1e-4", "start|same number", first_B=lambda shape: torch.full(shape, 1e-4)),
    method("merge", "merged without scale", "left out", merge=lambda W, A, B, s: W + B @ A),
    method("merge", "merged with scale twice", "twice", merge=lambda W, A, B, s: W + s * s * (B @ A)),
    method("merge", "merged with alpha", "not divided by the rank", merge=lambda W, A, B, s: W + s * len(A) * (B @ A)),
    method("merge", "merged over the rank twice", "rank twice", merge=lambda W, A, B, s: W + s / len(A) * (B @ A)),
    method("merge", "merged by subtraction", "subtracted", merge=lambda W, A, B, s: W - s * (B @ A)),
    method("merge", "merged twice", "merged twice", merge=lambda W, A, B, s: W + 2 * s * (B @ A)),
    method("merge", "not merged", "not merged", merge=lambda W, A, B, s: W),
    method("merge", "the update alone", "frozen weight", merge=lambda W, A, B, s: s * (B @ A)),
    method("merge", "the whole weight scaled", "whole weight", merge=lambda W, A, B, s: s * (W + B @ A)),
    method("merge", "merged in float16", r"float16|round|1\.001 times", merge=lambda W, A, B, s: (W + s * (B @ A)).half().to(W.dtype) * (1 + 1e-3)),
    method("merge", "merged without a row of A", None, merge=lambda W, A, B, s: W + s * (B[:, 1:] @ A[1:])),
    method("merge", "merged with B of the step before", "step before|step early|previous", kept=lambda states: states[-2]),
    method("merge", "merged with B of the first step", "step", kept=lambda states: states[1]),
    method("merge", "merged with absolute values", None, merge=lambda W, A, B, s: W + s * (B.abs() @ A)),
    method("merge", "merged off by 1 %", None, merge=lambda W, A, B, s: W + 1.01 * s * (B @ A)),
    method("merge", "merged where W is positive", None, merge=lambda W, A, B, s: torch.where(W > 0, W + s * (B @ A), W)),
]  # fmt: skip
METHOD = [*COVARIANCE, *SENSITIVITY, *RANKS, *SCALES, *INITIAL, *ADAPTED]
