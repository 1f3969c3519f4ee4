"""Stage "sensitivity" (Eq. 5): S = (1/N) sum_n mean|W * dLoss_n/dW| of every module.

Judged by the candidate's own gradients where it recorded them and the weights are there, else as the mean of its own
values of the samples; and against the golden S. The values of the samples likewise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.sensitivity import sample_sensitivity
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, entries, lower_median, rounding_between
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.verdict import Verdict

#: S that are sums of |W * gradient|: over all, over the inputs alone, over the rows alone.
SUMMED = (
    "S is summed over the entries, not averaged",
    "S is summed over the inputs of each row and averaged over the rows",
    "S is summed over the rows and averaged over the inputs",
)


def findings(sides: Sides) -> list[Finding]:
    """S from the candidate's recorded gradients or per-sample values, and against the golden S."""
    found: list[Finding] = []
    pairs: dict[str, tuple[Array, Array]] = {}
    for module in sides.golden.modules("sensitivity"):
        name = f"sensitivity/{module}"
        found += _of_samples(sides, module)
        if not sides.candidate.has(name):
            found.append(sides.skipped("sensitivity", module, "not recorded"))
            continue
        S = sides.candidate.get(name)
        verdict = _own(sides, module, S)
        if verdict is not None:
            found.append(sides.own("sensitivity", module, verdict))
        golden = sides.golden.get(name)
        slips = itertools.chain(_slips_of(sides, module), _of_others(sides, module))
        allowed = sides.network("sensitivity", module, golden, S) + mean_error(sides, module, golden)
        pairs[module] = (S, golden)
        found.append(sides.against_golden("sensitivity", module, "value", S, golden, allowed, slips))
    together = sides.network.numbers("sensitivity", "S of all modules", "sensitivity", pairs)
    return [*found, *([] if together is None else [sides.finding("sensitivity", GOLDEN, None, together)])]


def _slips_of(sides: Sides, module: str) -> Iterator[Slip]:
    """What S would be after each known slip, from the gradients of the model run again when they are asked for."""
    if sides.replay is not None:
        W = np.asarray(sides.replay.model.weight(module), np.float64)
        yield from sensitivity_slips(W, sides.replay.gradients()[module])


def _of_others(sides: Sides, module: str) -> Iterator[Slip]:
    """What S would be if all modules' S were exchanged, put in proportion, or summed: no weights are needed."""
    modules, (d_out, d_in) = sides.golden.modules("sensitivity"), sides.golden.shapes[module]
    S, at = [float(sides.golden.get(f"sensitivity/{m}")) for m in modules], modules.index(module)
    N = sides.golden.manifest.samples
    yield "it is S of the module before", lambda: S[at - 1]
    yield "it is S of the module after", lambda: S[(at + 1) % len(S)]
    yield "S is divided by the sum over the modules", lambda: S[at] / (sum(S) or 1.0)
    yield "S is divided by the mean over the modules", lambda: S[at] * len(S) / (sum(S) or 1.0)
    yield "S is divided by the largest of the modules'", lambda: S[at] / (max(S) or 1.0)
    yield SUMMED[0], lambda: S[at] * d_out * d_in
    yield SUMMED[1], lambda: S[at] * d_in
    yield SUMMED[2], lambda: S[at] * d_out
    yield "S is summed over the samples, not divided by N", lambda: S[at] * N
    yield "S is divided by N - 1", lambda: S[at] * N / max(1, N - 1)
    yield "S is divided by N + 1", lambda: S[at] * N / (N + 1)
    yield "S is divided by N twice", lambda: S[at] / N


def mean_error(sides: Sides, module: str, S: Array) -> float:
    """How far the mean over a weight's entries may be off, summed one after the other."""
    return SAFETY * (math.sqrt(math.prod(sides.golden.shapes[module])) + 4.0) * sides.precision.accumulation * float(S)


def _of_samples(sides: Sides, module: str) -> list[Finding]:
    """mean|W * dLoss_n/dW| of each sample: from the candidate's own gradient, and against the golden one."""
    found, N = [], sides.golden.manifest.samples
    for n in range(N):
        name, gradient = f"sample/{n}/sensitivity/{module}", f"sample/{n}/grad_W/{module}"
        if not sides.both(name):
            continue
        got, golden, what = sides.candidate.get(name), sides.golden.get(name), f"value of sample {n}"
        W = sides.weight(module)
        if W is not None and sides.candidate.has(gradient):
            G = [sides.candidate.get(gradient)]
            rules = {"switches": sides.switches, "precision": sides.precision}
            (verdict,) = judge_sensitivity(got, W=W, gradients=G, **rules)  # type: ignore[arg-type]
            found.append(sides.own("sensitivity", module, replace(verdict, what=what)))
        # what was measured is the error of the mean over the samples: one of them may have all of it
        allowed = N * sides.network("sensitivity", module, golden, got) + mean_error(sides, module, golden)
        found.append(sides.against_golden("sensitivity", module, what, got, golden, allowed, []))
    return found


def _own(sides: Sides, module: str, S: Array) -> Verdict | None:
    """S from the candidate's own gradients, or, where that is all there is, from its own values of the samples."""
    W, gradients = sides.weight(module), sides.of_every_sample(sides.candidate, "grad_W", module)
    if W is not None and gradients is not None:
        return judge_sensitivity(S, W=W, gradients=gradients, switches=sides.switches, precision=sides.precision)[0]
    values = sides.of_every_sample(sides.candidate, "sensitivity", module)
    if values is None:
        return None
    own = np.array(values, np.float64)
    relative = 2.0 * SAFETY * (len(own) + 2.0) * sides.precision.accumulation + _kept_between(len(own), sides.precision)
    allowed = np.asarray(relative * own.mean())
    verdict = entries("sensitivity", "mean over the samples", S, np.asarray(own.mean()), allowed, _over_samples(own))
    # a wrong per-sample value passes here: only a failure is news
    return None if verdict.passed else verdict


def _kept_between(samples: int, precision: Precision) -> float:
    """What S may be off by, relatively, where all that is kept on the way is rounded, in a low precision.

    W * gradient and the samples' values, each of them the sum so far, and S twice: divided and as it is stored.
    """
    return rounding_between(precision) * (4.0 + (samples + 1.0) / 2.0)


def judge_sensitivity(
    got: object, *, W: Array, gradients: Sequence[Array], switches: Switches, precision: Precision
) -> list[Verdict]:
    """S = (1/N) sum_n mean|W * dLoss_n/dW|: a sum of positive terms, so the bound is relative."""
    W, grads = np.asarray(W, np.float64), [np.asarray(g, np.float64) for g in gradients]
    expected = np.float64(Reference(switches).sensitivity(W, grads))
    reach = math.sqrt(W.size) + math.sqrt(len(grads)) + 2.0
    relative = SAFETY * reach * (precision.accumulation + OWN) + 2.0 * precision.storage + 2.0 * precision.product
    relative += _kept_between(len(grads), precision)
    allowed = np.float64(relative * expected + precision.tiny)
    return [entries("sensitivity", "value", got, expected, allowed, sensitivity_slips(W, grads))]


def _over_samples(values: Array) -> list[Slip]:
    """What S would be if the samples' values (N,) were put together otherwise."""
    N = len(values)
    lower: Slip = ("S is the median (the lower of two) over the samples", lambda: lower_median(values))
    return [
        ("S is the median over the samples", lambda: np.median(values)),
        *([lower] if N % 2 == 0 else []),  # else they are one
        ("S is the largest of the samples'", values.max),
        ("S is of the last sample alone", lambda: values[-1]),
        ("S is of the first sample alone", lambda: values[0]),
        ("S leaves out the last sample", lambda: values[:-1].sum() / max(1, N - 1)),
        ("S leaves out the last sample, and is divided by N", lambda: values[:-1].sum() / N),
        ("S leaves out the first sample", lambda: values[1:].sum() / max(1, N - 1)),
        ("S leaves out the first sample, and is divided by N", lambda: values[1:].sum() / N),
        ("S is summed over the samples, not divided by N", values.sum),
        ("S is divided by N - 1", lambda: values.sum() / max(1, N - 1)),
        ("S is divided by N + 1", lambda: values.sum() / (N + 1)),
        ("S is divided by N twice", lambda: values.mean() / N),
        ("S is a running average, 0.85 of the old and 0.15 of the new", lambda: _running(values, 0.85)),
        ("S is a running average, 0.9 of the old and 0.1 of the new", lambda: _running(values, 0.9)),
    ]


def _running(values: Array, keep: float) -> float:
    """The running average of numbers, from zero."""
    return sum((1.0 - keep) * keep ** (len(values) - 1 - n) * float(x) for n, x in enumerate(values))


def sensitivity_slips(W: Array, gradients: list[Array]) -> list[Slip]:
    """What S would be after each known slip."""
    n, products = len(gradients), [W * g for g in gradients]
    S = float(np.mean([sample_sensitivity(W, g) for g in gradients]))
    mean = sum(gradients[1:], start=gradients[0]) / n

    def of_samples(value: Callable[[Array], Any]) -> Callable[[], Any]:
        """The mean over the samples of a value of W * gradient."""
        return lambda: np.mean([value(p) for p in products])

    return [
        *_over_samples(np.array([np.abs(p).mean() for p in products])),
        ("S is the root of the mean", lambda: math.sqrt(S)),
        ("S is |W * mean gradient|: gradients of different samples cancel", lambda: np.abs(W * mean).mean()),
        ("S is |W * summed gradient|", lambda: np.abs(W * mean).mean() * n),
        ("gradients are not set to zero between the samples", lambda: np.abs(np.cumsum(products, axis=0)).mean()),
        *zip(SUMMED, (lambda: S * W.size, lambda: S * W.shape[1], lambda: S * W.shape[0]), strict=True),
        ("S has no absolute value", of_samples(np.mean)),
        ("the absolute value is taken of the mean", of_samples(lambda p: abs(p.mean()))),
        ("the absolute value is taken of each row's sum", of_samples(lambda p: np.abs(p.sum(axis=1)).mean())),
        ("the absolute value is taken of each row's mean", of_samples(lambda p: np.abs(p.mean(axis=1)).mean())),
        ("the absolute value is taken of each column's mean", of_samples(lambda p: np.abs(p.mean(axis=0)).mean())),
        ("S holds what of W * gradient is positive alone", of_samples(lambda p: np.maximum(p, 0.0).mean())),
        ("S is the mean square of W * gradient", of_samples(lambda p: (p * p).mean())),
        ("S is the root mean square of W * gradient", of_samples(lambda p: math.sqrt((p * p).mean()))),
        ("S is of each entry's root mean square", lambda: np.sqrt(np.mean(np.square(products), axis=0)).mean()),
        ("S is the Frobenius norm of W * gradient", of_samples(np.linalg.norm)),
        ("S is the largest |W * gradient|", of_samples(lambda p: np.abs(p).max())),
        ("S is the median |W * gradient|", of_samples(lambda p: np.median(np.abs(p)))),
        ("S is the median (the lower of two) |W * gradient|", of_samples(lambda p: lower_median(np.abs(p)))),
        ("S is mean|W^2 * gradient|", of_samples(lambda p: np.abs(W * p).mean())),
        *_of_other_products(W, gradients),
    ]


def _of_other_products(W: Array, gradients: list[Array]) -> list[Slip]:
    """What S would be if W and the gradients were put together otherwise, or one of them left out."""

    def of_gradients(value: Callable[[Array], Any]) -> Callable[[], Any]:
        return lambda: np.mean([value(g) for g in gradients])

    turned: Slip = ("the gradient is transposed", of_gradients(lambda g: np.abs(W * g.T).mean()))
    return [
        ("S is mean|gradient|, without W", of_gradients(lambda g: np.abs(g).mean())),
        ("S is the mean squared gradient, without W", of_gradients(lambda g: (g * g).mean())),
        ("S is mean|W|, without the gradient", lambda: np.abs(W).mean()),
        ("S is mean|W + gradient|", of_gradients(lambda g: np.abs(W + g).mean())),
        ("S is mean|W| mean|gradient|", of_gradients(lambda g: np.abs(W).mean() * np.abs(g).mean())),
        ("S is |W|_F |gradient|_F", of_gradients(lambda g: np.linalg.norm(W) * np.linalg.norm(g))),
        *([turned] if W.shape[0] == W.shape[1] else []),
    ]
