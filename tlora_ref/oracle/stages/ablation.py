"""The stages "ranks", "scales" and "A" of any run: the method's own, and those of the ablations (Tables 4 and 12).

What a golden run takes from the method is judged by that stage's file. Uniform ranks and scales follow from the budget;
W-SVD's A from W; a random A is the golden one, or another draw of the same distribution.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from tlora_ref import algorithm
from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import Finding
from tlora_ref.oracle.stages import initialization, ranks, scales
from tlora_ref.oracle.stages.bounds import Slip, entries, rms, stored
from tlora_ref.oracle.stages.sides import Sides, named
from tlora_ref.oracle.stages.spectrum import spectrum
from tlora_ref.oracle.verdict import Verdict

#: Standard deviations that a mean over a random A may be off by: once in 4e11 for a normal one.
DEVIATIONS = 7.0
#: An A that is nearer to the golden one than this share of its size is meant to be that one.
NEAR = 0.5


def ranks_of(sides: Sides) -> list[Finding]:
    """Ranks by Eq. 6; where they are not adapted, r_init for every module that has room for it."""
    if sides.golden.manifest.adapt_rank:
        return ranks.findings(sides)
    modules, m = list(sides.golden.shapes), sides.golden.manifest
    if not all(sides.candidate.has(f"rank/{name}") for name in modules):
        return [sides.skipped("ranks", None, "not recorded for every module")]
    dims, ones = list(sides.golden.shapes.values()), np.ones(len(modules))
    uniform = algorithm.allocate(ones, dims, m.r_init, m.alpha, sides.switches)
    S = sides.scores()[0] if sides.golden.modules("sensitivity") else ones
    slips: list[Slip] = [
        ("ranks are those of Eq. 6: this run does not adapt them", lambda: _adapted(sides, S).rank),
        ("ranks are not cut to the module's size", lambda: ones * m.r_init),
    ]
    found = []
    for kind, right in (("rank", uniform.rank), ("rank_eq6", uniform.rank_eq6)):
        if all(sides.candidate.has(f"{kind}/{name}") for name in modules):
            got = np.array([float(sides.candidate.get(f"{kind}/{name}")) for name in modules])
            verdict = entries("ranks", f"uniform {kind}", got, right, 0.0, slips)
            found.append(sides.own("ranks", named(modules, verdict), verdict))
    return found


def scales_of(sides: Sides) -> list[Finding]:
    """Scales by Eq. 7; where they are not adapted, alpha / r_init or alpha / r_i, as the golden run says."""
    if sides.golden.manifest.adapt_scale:
        return scales.findings(sides)
    m, c = sides.golden.manifest, sides.candidate
    have = c.modules("scale")
    if not have:
        return [sides.skipped("scales", None, "not recorded")]
    trace = c if all(c.has(f"rank/{name}") for name in have) else sides.golden
    r = np.maximum([float(trace.get(f"rank/{name}")) for name in have], 1.0)
    rules = {"alpha/r_init": np.full(len(have), m.alpha / m.r_init), "alpha/r_i": m.alpha / r}
    right = rules.pop(m.uniform_scale)
    other, theirs = next(iter(rules.items()))
    S = sides.scores()[0] if sides.golden.modules("sensitivity") else None
    at = [list(sides.golden.shapes).index(name) for name in have]
    slips: list[Slip] = [
        (f"the scale is {other}: this run takes {m.uniform_scale}", lambda: theirs),
        ("alpha itself: the scale is not divided by the rank", lambda: np.full(len(have), m.alpha)),
        ("alpha over the root of the rank (rsLoRA)", lambda: m.alpha / np.sqrt(r)),
        ("there is no scale", lambda: np.ones(len(have))),
    ]
    if S is not None:
        adapted = "scales are those of Eq. 7: this run does not adapt them"
        slips.insert(0, (adapted, lambda: _adapted(sides, S).scale[at]))
    got = np.array([float(c.get(f"scale/{name}")) for name in have])
    verdict = entries("scales", "uniform scales", got, right, 8.0 * sides.rounding * np.abs(right), slips)
    return [sides.own("scales", named(have, verdict), verdict), *scales.alphas(sides)]


def _adapted(sides: Sides, S: Array) -> algorithm.Allocation:
    """What Eq. 6 and Eq. 7 would give."""
    m = sides.golden.manifest
    return algorithm.allocate(S, list(sides.golden.shapes.values()), m.r_init, m.alpha, sides.switches)


def A_of(sides: Sides) -> list[Finding]:
    """A by Eq. 4; of the right singular vectors of W; or random."""
    init = sides.golden.manifest.init
    if init == "wc-svd":
        return initialization.findings(sides)
    found, drawn = [], []
    for module in sides.golden.modules("A"):
        if not sides.candidate.has(f"A/{module}"):
            found.append(sides.missing("A", "A", module) or sides.skipped("A", module, "not recorded (or rank 0)"))
        elif init == "w-svd":
            found += _w_svd(sides, module)
        elif init == "random":
            A, golden = sides.candidate.get(f"A/{module}"), sides.golden.get(f"A/{module}")
            own = is_another_draw(A, golden)
            drawn += [A] if own else []
            found.append(sides.own("A", module, judge_random(A, None if own else golden, sides.precision)))
        else:
            found.append(sides.skipped("A", module, f'init "{init}" is not judged: its rows hang on the damping of C'))
    if drawn:
        found.append(sides.own("A", None, judge_draws(drawn)))
        found.append(sides.noted("A", f"{len(drawn)} are another draw than the golden ones: held to its distribution"))
    return found


def _w_svd(sides: Sides, module: str) -> list[Finding]:
    """A holds the top right singular vectors of W: those of W C for C = I."""
    W, A = sides.weight(module), sides.candidate.get(f"A/{module}")
    if W is None:
        return [sides.skipped("A", module, "needs the weights: give --checkpoint")]
    judge = partial(
        initialization.judge_initialize_a, A, W=W, r=len(A), switches=sides.switches, precision=sides.precision
    )
    verdicts = judge(C=np.eye(W.shape[1]))
    if not all(v.passed for v in verdicts) and sides.golden.has(f"covariance/{module}"):
        C = sides.golden.get(f"covariance/{module}")
        if all(v.passed for v in judge(C=C)):
            cause = "A is taken from W C (Eq. 4): this run takes it from W"
            verdicts = [v if v.passed else replace(v, cause=cause) for v in verdicts]
    if sides.candidate.has(f"sigma/{module}"):
        found = spectrum(W, np.eye(W.shape[1]), sides.switches, sides.precision)
        expected, sigma = found.sigma[: min(W.shape)], sides.candidate.get(f"sigma/{module}")
        verdicts.append(entries("A", "singular values of W", sigma, expected, found.error))
    return [sides.own("A", module, v) for v in verdicts]


def is_another_draw(A: Array, golden: Array) -> bool:
    """Whether a random A (r, d_in) is not meant to be the golden one: it is not even near."""
    return A.shape != golden.shape or float(np.linalg.norm(A - golden)) > NEAR * float(np.linalg.norm(golden))


def judge_random(A: Array, golden: Array | None, precision: Precision) -> Verdict:
    """The golden A as it is stored; of another draw (None), that no entry lies beyond 1 / sqrt(d_in)."""
    if golden is not None:
        return entries("A", "the golden random A", A, golden, stored(golden, precision))
    bound = A.shape[1] ** -0.5
    most = float(np.abs(A).max(initial=0.0))
    allowed = bound * (1.0 + precision.storage)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(A))), A.shape))
    cause = None if most <= allowed else _drawn_otherwise(A)
    return Verdict("A", "entries within 1 / sqrt(d_in)", most <= allowed, most, allowed, where, most, bound, cause)


def judge_draws(drawn: list[Array]) -> Verdict:
    """Mean and mean square of all entries of several A, in units of 1 / sqrt(d_in): 0 and 1/3 of a uniform one."""
    x = np.concatenate([A.ravel() * math.sqrt(A.shape[1]) for A in drawn])
    off = abs(x.mean()) * math.sqrt(3.0 * x.size), abs((x**2).mean() - 1.0 / 3.0) * math.sqrt(11.25 * x.size)
    error = float(max(off))  # in standard deviations: 1/3 and 4/45 are the variances of x and of x^2
    cause = None if error <= DEVIATIONS else _drawn_otherwise(max(drawn, key=np.size))
    return Verdict("A", "a uniform draw", error <= DEVIATIONS, error, DEVIATIONS, cause=cause)


def _drawn_otherwise(A: Array) -> str | None:
    """How an A was made that is not uniform within 1 / sqrt(d_in)."""
    r, d_in = A.shape
    size, most = rms(A), float(np.abs(A).max(initial=0.0))
    if most == 0.0:
        return "A is zero: A and B have changed places"
    if np.abs(A @ A.T - np.eye(r)).max() < 1e-3:
        return "A has orthonormal rows: it is not random"
    spread = DEVIATIONS / math.sqrt(A.size)
    if most <= math.sqrt(6.0 / d_in) and abs(size / math.sqrt(2.0 / d_in) - 1.0) < spread:
        return "A is Kaiming-uniform with a = 0, not with a = sqrt(5)"
    if abs(size * r - 1.0) < spread:
        return "A is normal with a deviation of 1 / r"
    return None
