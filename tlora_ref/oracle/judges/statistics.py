"""Judges of what calibration gathers: the loss, C and S."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.sensitivity import sample_sensitivity
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.judges.bounds import OWN, SAFETY, Slip, entries, stored, sum_error
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict


def judge_loss(got: object, *, logits: Array, labels: Array, switches: Switches, precision: Precision) -> list[Verdict]:
    """The mean cross entropy over the labelled tokens of one sample, labels shifted by one."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    expected = Reference().loss(logits, labels)
    # log-sum-exp over V terms at the size of the largest logit, and the mean over the labelled tokens
    size = float(np.abs(logits).max()) + math.log(logits.shape[1]) + 1.0
    tokens = int((labels[1:] != -100).sum())
    reach = math.sqrt(logits.shape[1]) + math.sqrt(tokens) + 4.0
    allowed = SAFETY * reach * (precision.accumulation + OWN) * size + precision.storage * abs(expected)
    return [entries("loss", "value", got, np.float64(expected), np.float64(allowed), loss_slips(logits, labels))]


def _cross_entropy(scores: Array, targets: Array, *, divisor: int | None = None) -> float:
    kept = targets != -100
    scores, targets = scores[kept], targets[kept]
    log_sum = np.logaddexp.reduce(scores, axis=1)
    total = (log_sum - scores[np.arange(len(targets)), targets]).sum()
    return float(total / max(1, len(targets) if divisor is None else divisor))


def loss_slips(logits: Array, labels: Array) -> list[Slip]:
    """What the loss would be after each known slip."""
    tokens, expected = len(labels), Reference().loss(logits, labels)
    backwards = np.append(-100, labels[:-1])
    return [
        ("labels are not shifted: logits at t score labels at t", lambda: _cross_entropy(logits, labels)),
        (
            "labels are shifted the wrong way: logits at t score labels at t - 1",
            lambda: _cross_entropy(logits, backwards),
        ),
        (
            "labels are shifted twice: logits at t score labels at t + 2",
            lambda: _cross_entropy(logits[:-2], labels[2:]),
        ),
        ("summed over the labelled tokens, not averaged", lambda: _cross_entropy(logits[:-1], labels[1:], divisor=1)),
        (
            "divided by all tokens, not by the labelled ones",
            lambda: _cross_entropy(logits[:-1], labels[1:], divisor=tokens - 1),
        ),
        ("divided by the length of the sample", lambda: _cross_entropy(logits[:-1], labels[1:], divisor=tokens)),
        ("logarithm to base 2", lambda: np.float64(expected / math.log(2.0))),
        ("the sign is flipped", lambda: np.float64(-expected)),
    ]


def judge_covariance(
    got: object, *, inputs: Sequence[Array], switches: Switches, precision: Precision
) -> list[Verdict]:
    """C = (1/N) sum_n X_n^T X_n, entry by entry."""
    X = [np.asarray(x, np.float64) for x in inputs]
    expected = Reference(switches).covariance(X)
    magnitude = _moments([np.abs(x) + np.abs(x).mean(axis=0) for x in X] if switches.centre else [np.abs(x) for x in X])
    allowed = sum_error(magnitude, sum(map(len, X)), precision) + stored(expected, precision)
    return [entries("covariance", "entries", got, expected, allowed, covariance_slips(X, switches))]


def _moments(X: Sequence[Array], weights: Sequence[float] | None = None) -> Array:
    """(1/N) sum_n w_n X_n^T X_n."""
    terms = [x.T @ x * w for x, w in zip(X, weights or [1.0] * len(X), strict=True)]
    return np.asarray(sum(terms[1:], start=terms[0]) / len(terms))


def covariance_slips(X: list[Array], switches: Switches) -> list[Slip]:
    """What C would be after each known slip, from the inputs of every sample."""
    used = [x - x.mean(axis=0) for x in X] if switches.centre else X
    n, tokens = len(X), sum(map(len, X))
    everything = np.concatenate(X)
    other = X if switches.centre else [x - x.mean(axis=0) for x in X]
    profile = (
        "not centred: matches the `paper` profile" if switches.centre else "centred: matches the `released` switch"
    )
    return [
        (f"C is {profile} (`centre`)", lambda: _moments(other)),
        ("C is centred by the mean over all samples", lambda: _moments([x - everything.mean(axis=0) for x in X])),
        ("C is summed over the samples, not divided by N", lambda: _moments(used) * n),
        ("each sample's X^T X is divided by its tokens", lambda: _moments(used, [1.0 / len(x) for x in X])),
        ("C is divided by all tokens, not by N", lambda: _moments(used) * n / tokens),
        ("C is divided by N - 1", lambda: _moments(used) * n / max(1, n - 1)),
        ("C is divided by N + 1", lambda: _moments(used) * n / (n + 1)),
        ("C is divided by N twice", lambda: _moments(used) / n),
        ("C holds the last sample alone", lambda: _moments(used[-1:])),
        ("C holds the last sample alone, divided by N", lambda: _moments(used[-1:]) / n),
        ("C holds the first sample alone", lambda: _moments(used[:1])),
        ("C leaves out the last token of each sample", lambda: _moments([x[:-1] for x in used])),
        ("C leaves out the first token of each sample", lambda: _moments([x[1:] for x in used])),
        ("C is made of the samples' mean inputs", lambda: _moments([x.mean(axis=0, keepdims=True) for x in X])),
        ("C holds its diagonal alone", lambda: np.diag(np.diag(_moments(used)))),
        ("C holds its upper triangle alone", lambda: np.triu(_moments(used))),
        ("C holds its lower triangle alone", lambda: np.tril(_moments(used))),
        ("C is made of |X|", lambda: _moments([np.abs(x) for x in used])),
        ("the inputs are normalised to unit length first", lambda: _moments([_unit(x) for x in used])),
    ]


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)


def judge_sensitivity(
    got: object, *, W: Array, gradients: Sequence[Array], switches: Switches, precision: Precision
) -> list[Verdict]:
    """S = (1/N) sum_n mean|W * dLoss_n/dW|: a sum of positive terms, so the bound is relative."""
    W, grads = np.asarray(W, np.float64), [np.asarray(g, np.float64) for g in gradients]
    expected = np.float64(Reference(switches).sensitivity(W, grads))
    reach = math.sqrt(W.size) + math.sqrt(len(grads)) + 2.0
    relative = SAFETY * reach * (precision.accumulation + OWN) + 2.0 * precision.storage + 2.0 * precision.product
    allowed = np.float64(relative * expected + precision.tiny)
    return [entries("sensitivity", "value", got, expected, allowed, sensitivity_slips(W, grads))]


def sensitivity_slips(W: Array, gradients: list[Array]) -> list[Slip]:
    """What S would be after each known slip."""
    n, products = len(gradients), [W * g for g in gradients]
    S = float(np.mean([sample_sensitivity(W, g) for g in gradients]))
    mean = sum(gradients[1:], start=gradients[0]) / n
    return [
        ("S is |W * mean gradient|: gradients of different samples cancel", lambda: np.abs(W * mean).mean()),
        ("S is |W * summed gradient|", lambda: np.abs(W * mean).mean() * n),
        ("S is summed over the samples, not divided by N", lambda: np.float64(S * n)),
        ("S is divided by N twice", lambda: np.float64(S / n)),
        ("S is summed over the entries, not averaged", lambda: np.float64(S * W.size)),
        ("S is summed over the inputs of each row and averaged over the rows", lambda: np.float64(S * W.shape[1])),
        ("S is summed over the rows and averaged over the inputs", lambda: np.float64(S * W.shape[0])),
        ("S has no absolute value", lambda: np.mean([p.mean() for p in products])),
        ("the absolute value is taken of the mean", lambda: np.mean([abs(p.mean()) for p in products])),
        ("S is the mean square of W * gradient", lambda: np.mean([(p * p).mean() for p in products])),
        ("S is the root mean square of W * gradient", lambda: np.mean([math.sqrt((p * p).mean()) for p in products])),
        ("S is the Frobenius norm of W * gradient", lambda: np.mean([np.linalg.norm(p) for p in products])),
        ("S is the largest |W * gradient|", lambda: np.mean([np.abs(p).max() for p in products])),
        ("S is mean|gradient|, without W", lambda: np.mean([np.abs(g).mean() for g in gradients])),
        ("S is the mean squared gradient, without W", lambda: np.mean([(g * g).mean() for g in gradients])),
        ("S is mean|W|, without the gradient", lambda: np.abs(W).mean()),
        ("S is mean|W + gradient|", lambda: np.mean([np.abs(W + g).mean() for g in gradients])),
        ("S is mean|W^2 * gradient|", lambda: np.mean([np.abs(W * p).mean() for p in products])),
        ("S is mean|W| mean|gradient|", lambda: np.abs(W).mean() * np.mean([np.abs(g).mean() for g in gradients])),
        ("S is of the last sample alone", lambda: np.abs(products[-1]).mean()),
        ("S is of the first sample alone", lambda: np.abs(products[0]).mean()),
    ]


def centred_from_sums(C: Array, sums: Sequence[Array], tokens: Sequence[int]) -> Array:
    """C with each sample's own mean taken out, from the uncentred C and the column sums of every X_n."""
    means = [np.outer(s, s) / t for s, t in zip(sums, tokens, strict=True)]
    return np.asarray(C - sum(means[1:], start=means[0]) / len(means))
