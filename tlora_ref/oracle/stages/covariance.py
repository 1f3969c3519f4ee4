"""Stage "covariance" (Alg. 1, line 9): C = (1/N) sum_n X_n^T X_n of every module.

Judged by the candidate's own inputs X_n where it recorded them, and against the golden C; the number of rows of every
X_n and their sum likewise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.causes import Fitted
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import Slip, as_array, entries, rounding_between, stored, sum_error
from tlora_ref.oracle.stages.shares import judge_part, judge_parts
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.verdict import Verdict

#: Where no noise was measured, a sum over a sample's tokens is never allowed more of its largest entry than this.
MOST = 0.25


def findings(sides: Sides) -> list[Finding]:
    """C from the candidate's recorded inputs, and against the golden C."""
    found, pairs = [], dict[str, tuple[Array, Array]]()
    for module in sides.golden.modules("covariance"):
        name = f"covariance/{module}"
        if not sides.candidate.has(name):
            found.append(sides.skipped("covariance", module, "not recorded"))
            continue
        C, X = sides.candidate.get(name), sides.of_every_sample(sides.candidate, "input", module)
        if X is not None:
            judged = judge_covariance(C, inputs=X, switches=sides.switches, precision=sides.precision)
            found += [sides.own("covariance", module, verdict) for verdict in judged]
        golden = sides.golden.get(name)
        slips = itertools.chain(
            _slips_of(sides, module, golden), damping(C, golden), sides.of_another("covariance", module, C)
        )
        verdict = sides.network.array("covariance", "entries", "covariance", module, C, golden, slips)
        judged = [verdict]
        if verdict.passed:  # what entries show needs no shares, which would not know its cause
            judged += judge_part(sides.network, "covariance", module, C, golden)
        found += [sides.finding("covariance", GOLDEN, module, verdict) for verdict in judged]
        pairs[module] = C, golden
    if all(f.verdict is None or f.verdict.passed for f in found):
        together = judge_parts(sides.network, "covariance", pairs)
        found += [sides.finding("covariance", GOLDEN, None, verdict) for verdict in together]
    for module in sides.golden.shapes:
        found += _of_samples(sides, module)
    return found


def _of_samples(sides: Sides, module: str) -> list[Finding]:
    """How many rows X_n has, and their sum: from the candidate's own X_n, and against the golden ones."""
    found = []
    for n in range(sides.golden.manifest.samples):
        tokens, total, rows = (f"sample/{n}/{name}/{module}" for name in ("tokens", "input_sum", "input"))
        if sides.both(tokens):
            got, golden = sides.candidate.get(tokens), sides.golden.get(tokens)
            what = f"rows of X of sample {n}"
            found.append(sides.against_golden("covariance", module, what, got, golden, np.zeros(()), []))
        if sides.candidate.has(total) and sides.candidate.has(rows):
            X = sides.candidate.get(rows)
            size, unit = np.abs(X).sum(axis=0), rounding_between(sides.precision)
            allowed = sum_error(size, len(X), sides.precision) + stored(X.sum(axis=0), sides.precision) + unit * size
            verdict = entries(
                "covariance", f"sum of X of sample {n}", sides.candidate.get(total), X.sum(axis=0), allowed
            )
            found.append(sides.own("covariance", module, verdict))
        if sides.both(total):
            got, golden = sides.candidate.get(total), sides.golden.get(total)
            most = MOST * float(np.abs(golden).max(initial=0.0))
            bound = min(sides.network("input_sum", f"{n}/{module}", golden), most)
            what = f"sum of X of sample {n}"
            found.append(sides.against_golden("covariance", module, what, got, golden, bound, []))
    return found


def _slips_of(sides: Sides, module: str, golden: Array) -> Iterator[Slip]:
    """What C would be after each known slip: made when it is asked for, by golden's inputs or the model run again."""
    X = sides.of_every_sample(sides.golden, "input", module)
    if X is None and sides.replay is not None:
        X = sides.replay.inputs(module)
    if X is not None:
        yield from covariance_slips(X, sides.switches)
        return
    sums = sides.of_every_sample(sides.golden, "input_sum", module)
    counts = sides.of_every_sample(sides.golden, "tokens", module)
    if counts is None:
        return
    tokens = [int(count) for count in counts]
    if sums is not None and not sides.switches.centre:
        yield "C is centred: matches the `released` switch (`centre`)", lambda: centred_from_sums(golden, sums, tokens)
    yield from _slips_of_C(lambda: golden, len(tokens), sum(tokens))


def judge_covariance(
    got: object, *, inputs: Sequence[Array], switches: Switches, precision: Precision
) -> list[Verdict]:
    """C = (1/N) sum_n X_n^T X_n, entry by entry."""
    X = [np.asarray(x, np.float64) for x in inputs]
    expected = Reference(switches).covariance(X)
    magnitude = _moments([np.abs(x) + np.abs(x).mean(axis=0) for x in X] if switches.centre else [np.abs(x) for x in X])
    allowed = sum_error(magnitude, sum(map(len, X)), precision) + stored(expected, precision)
    if unit := rounding_between(precision):
        allowed = allowed + _kept_between(X, magnitude, unit)
    slips = itertools.chain(covariance_slips(X, switches), damping(got, expected))
    return [entries("covariance", "entries", got, expected, allowed, slips)]


def _kept_between(X: Sequence[Array], magnitude: Array, unit: float) -> Array:
    """What C may be off by where all that is kept on the way is rounded by `unit`, in a low precision.

    X itself (divided by the root of N, say), X_n^T X_n, its difference from a running mean and a share of that, and the
    sums of the samples so far. One after the other, so that all of it may add up.
    """
    sums, sizes = np.zeros_like(magnitude), np.zeros_like(magnitude)
    for x in X:
        sizes = sizes + np.abs(x.T @ x)
        sums = sums + sizes
    return np.asarray(unit * (2.0 * magnitude + (3.0 * sizes + sums) / len(X)))


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
        ("each sample's X^T X is divided by its tokens", lambda: _moments(used, [1.0 / len(x) for x in X])),
        ("each sample's X^T X is divided by its trace", lambda: _moments(used, [1.0 / _squares(x) for x in used])),
        *_slips_of_C(lambda: _moments(used), n, tokens),
        ("C holds the last sample alone", lambda: _moments(used[-1:])),
        ("C holds the last sample alone, divided by N", lambda: _moments(used[-1:]) / n),
        ("C holds the first sample alone", lambda: _moments(used[:1])),
        ("C leaves out the last sample", lambda: _moments(used[:-1] or used)),
        ("C leaves out the last sample, and is divided by N", lambda: _moments(used[:-1] or used) * (n - 1) / n),
        ("C leaves out the first sample", lambda: _moments(used[1:] or used)),
        ("C leaves out the first sample, and is divided by N", lambda: _moments(used[1:] or used) * (n - 1) / n),
        ("C is a running average, 0.9 of the old and 0.1 of the new", lambda: _running(used, 0.9)),
        ("C leaves out the last token of each sample", lambda: _moments([x[:-1] for x in used])),
        ("C leaves out the first token of each sample", lambda: _moments([x[1:] for x in used])),
        ("C holds the last token of each sample alone", lambda: _moments([x[-1:] for x in used])),
        ("C holds the first token of each sample alone", lambda: _moments([x[:1] for x in used])),
        ("C is made of the second half of each sample's tokens", lambda: _moments([x[len(x) // 2 :] for x in used])),
        ("C is the mean of the samples' covariances, centred and divided by T - 1", lambda: _covariances(X)),
        ("C is made of the samples' mean inputs", lambda: _moments([x.mean(axis=0, keepdims=True) for x in X])),
        ("C is made of the samples' summed inputs", lambda: _moments([x.sum(axis=0, keepdims=True) for x in X])),
        ("C is made of |X|", lambda: _moments([np.abs(x) for x in used])),
        ("the inputs are normalised to unit length first", lambda: _moments([_unit(x) for x in used])),
        ("the inputs are centred over their features", lambda: _moments([x - x.mean(axis=1)[:, None] for x in X])),
    ]


def _slips_of_C(C: Callable[[], Array], n: int, tokens: int) -> list[Slip]:
    """What C would be after slips that are told from C() (d_in, d_in) alone, of `n` samples with so many tokens."""
    return [
        ("C is summed over the samples, not divided by N", lambda: C() * n),
        ("C is divided by all tokens, not by N", lambda: C() * n / tokens),
        ("C is divided by N - 1", lambda: C() * n / max(1, n - 1)),
        ("C is divided by N + 1", lambda: C() * n / (n + 1)),
        ("C is divided by N twice", lambda: C() / n),
        ("C is divided by its trace", lambda: C() / (np.trace(C()) or 1.0)),
        ("C is that of the correlations", lambda: _correlations(C())),
        ("C holds its diagonal alone", lambda: np.diag(np.diag(C()))),
        ("C holds its upper triangle alone", lambda: np.triu(C())),
        ("C holds its lower triangle alone", lambda: np.tril(C())),
        ("C has its diagonal twice", lambda: C() + np.diag(np.diag(C()))),
        ("C has no negative entries", lambda: np.maximum(C(), 0.0)),
        ("C holds absolute values", lambda: np.abs(C())),
        ("C is its own root, C^1/2", lambda: _root(C())),
    ]


def _covariances(X: Sequence[Array]) -> Array:
    """The mean of the samples' covariance matrices, as `numpy.cov` has them."""
    return _moments([x - x.mean(axis=0) for x in X], [1.0 / max(1, len(x) - 1) for x in X])


def damping(got: object, expected: Array) -> Iterator[Slip]:
    """C with something added to its diagonal, the same everywhere: as much as `got` shows."""
    C = as_array(got, expected.shape)
    size = float(np.diag(expected).mean())
    if isinstance(C, str) or size == 0.0:
        return
    added = float(np.diag(C - expected).mean())

    def damped() -> Array:
        return expected + added * np.eye(len(expected))

    if added > 0.0:
        yield Fitted(f"C is damped: {added / size:.2g} of its mean diagonal is added to the diagonal"), damped
        yield Fitted(f"C is damped: {added:.2g} is added to the diagonal"), damped


def _squares(x: Array) -> float:
    return float((x**2).sum()) or 1.0


def _running(X: Sequence[Array], keep: float) -> Array:
    """The running average of X_n^T X_n, from zero."""
    C = np.zeros((X[0].shape[1],) * 2)
    for x in X:
        C = keep * C + (1.0 - keep) * (x.T @ x)
    return C


def _root(C: Array) -> Array:
    values, vectors = np.linalg.eigh(C)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _correlations(C: Array) -> Array:
    d = np.sqrt(np.maximum(np.diag(C), 1e-300))
    return np.asarray(C / np.outer(d, d))


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)


def centred_from_sums(C: Array, sums: Sequence[Array], tokens: Sequence[int]) -> Array:
    """C with each sample's own mean taken out, from the uncentred C and the column sums of every X_n."""
    means = [np.outer(s, s) / t for s, t in zip(sums, tokens, strict=True)]
    return np.asarray(C - sum(means[1:], start=means[0]) / len(means))
