"""Two traces side by side, and each stage of the candidate judged: by its own inputs, and against the golden one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.format import Trace
from tlora_ref.oracle.judges.allocation import judge_ranks, judge_scales
from tlora_ref.oracle.judges.bounds import SAFETY, Slip, entries, stored
from tlora_ref.oracle.judges.statistics import (
    centred_from_sums,
    covariance_slips,
    judge_covariance,
    judge_sensitivity,
    sensitivity_slips,
)
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.replay import Replay
from tlora_ref.oracle.report import Finding
from tlora_ref.oracle.samples import loss_findings, of_every_sample, sample_findings, sample_sensitivities
from tlora_ref.oracle.trained import adamw_findings, gradient_findings, initialization_findings, merge_findings
from tlora_ref.oracle.verdict import Verdict
from tlora_ref.transformer import Model

#: A candidate may be this many times as far away as the measured float32 run is, in units of its own precision.
NETWORK = 16.0
UNIT32 = 2.0**-23
#: Where the golden trace measured no noise: this many roundings of the largest entry.
UNMEASURED = 2000.0
OWN, GOLDEN = "own inputs", "golden"


class Held:
    """The golden trace, the candidate's, the model if there is one, and how far apart they may be."""

    def __init__(
        self, golden: Trace, candidate: Trace, model: Model | None, precision: Precision, factors: Mapping[str, float]
    ) -> None:
        self.golden, self.candidate, self.model, self.factors = golden, candidate, model, factors
        self.precision = precision
        self.switches = golden.manifest.resolved()
        self.replay = None if model is None else Replay(model, golden)
        measured = "float32" in golden.manifest.noise
        self.noise: Mapping[str, Mapping[str, float]] = golden.manifest.noise.get("float32", {})
        self.said = {
            "dtype": precision.name,
            "one operation": f"{SAFETY:g} (sqrt(k) + 1) eps sum|a||b|, eps = {precision.accumulation:.3g}, "
            f"and {precision.storage:.3g} of the result for its storage",
            "the whole network": f"{NETWORK:g} times the golden run's own deviation in float32, times "
            f"{self.unit / UNIT32:.3g} for {precision.name}"
            if measured
            else f"{UNMEASURED:g} roundings of the largest entry (the golden trace measured no noise)",
            **{f"factor of {stage}": f"{factor:g}" for stage, factor in factors.items()},
        }

    @property
    def letters(self) -> str:
        """The matrices that this profile trains."""
        return "B" if self.switches.freeze_A else "BA"

    @property
    def unit(self) -> float:
        """The largest of the candidate's roundings."""
        return max(self.precision.storage, self.precision.accumulation, self.precision.product)

    def network(self, quantity: str, key: str, golden: Array) -> float:
        """How far a quantity of the whole network may be from the golden one, a bound on every entry."""
        size = float(np.abs(golden).max(initial=0.0))
        measured = self.noise.get(quantity, {})
        if key not in measured:
            return UNMEASURED * self.unit * size + self.precision.tiny
        # one number is sometimes right by luck: no key is given less than a tenth of what is usual for its quantity
        usual = float(np.median(list(measured.values())))
        noise = max(measured[key], 0.1 * usual, UNIT32 * size)
        return NETWORK * noise * self.unit / UNIT32 + float(stored(np.asarray(size), self.precision))

    def own(self, stage: str, module: str | None, verdict: Verdict) -> Finding:
        """A verdict on the candidate's own inputs."""
        return self.finding(stage, OWN, module, verdict)

    def against_golden(
        self, stage: str, module: str | None, what: str, got: Array, golden: Array, allowed: Any, slips: list[Slip]
    ) -> Finding:
        """A candidate's quantity held against the golden one."""
        return self.finding(stage, GOLDEN, module, entries(stage, what, got, golden, allowed, slips))

    def finding(self, stage: str, against: str, module: str | None, verdict: Verdict) -> Finding:
        factor = self.factors.get(stage, 1.0)
        if factor != 1.0:
            verdict = replace(
                verdict, allowed=verdict.allowed * factor, passed=verdict.error <= verdict.allowed * factor
            )
        return Finding(stage, against, module, verdict, "")

    def skipped(self, stage: str, module: str | None, why: str) -> Finding:
        """What could not be checked, and why."""
        return Finding(stage, OWN, module, None, "", why)

    @property
    def adapted(self) -> list[str]:
        """The modules with a rank: by the candidate's own ranks where it has them all, else by the golden ones."""
        ranks = {m: f"rank/{m}" for m in self.golden.shapes}
        trace = self.candidate if all(map(self.candidate.has, ranks.values())) else self.golden
        return [m for m, name in ranks.items() if trace.has(name) and trace.get(name) > 0]

    def both(self, name: str) -> bool:
        """Whether both traces have this quantity."""
        return self.golden.has(name) and self.candidate.has(name)


def covariance_findings(held: Held) -> list[Finding]:
    """C from the candidate's recorded inputs, and against the golden C."""
    found = []
    for module in held.golden.modules("covariance"):
        name = f"covariance/{module}"
        if not held.candidate.has(name):
            found.append(held.skipped("covariance", module, "not recorded"))
            continue
        C, X = held.candidate.get(name), of_every_sample(held, held.candidate, "input", module)
        if X is not None:
            judged = judge_covariance(C, inputs=X, switches=held.switches, precision=held.precision)
            found += [held.own("covariance", module, verdict) for verdict in judged]
        golden = held.golden.get(name)
        slips = _covariance_slips(held, module, golden)
        allowed = held.network("covariance", module, golden)
        found.append(held.against_golden("covariance", module, "entries", C, golden, allowed, slips))
    for module in held.golden.shapes:
        found += sample_findings(held, module)
    return found


def _covariance_slips(held: Held, module: str, golden: Array) -> list[Slip]:
    X = of_every_sample(held, held.golden, "input", module)
    if X is None and held.replay is not None:
        X = held.replay.inputs(module)
    if X is not None:
        return covariance_slips(X, held.switches)
    sums = of_every_sample(held, held.golden, "input_sum", module)
    counts = of_every_sample(held, held.golden, "tokens", module)
    if held.switches.centre or sums is None or counts is None:
        return []
    tokens = [int(count) for count in counts]
    N, T = len(tokens), sum(tokens)
    return [
        ("C is centred: matches the `released` switch (`centre`)", lambda: centred_from_sums(golden, sums, tokens)),
        ("C is summed over the samples, not divided by N", lambda: golden * N),
        ("C is divided by all tokens, not by N", lambda: golden * N / T),
        ("C is divided by N - 1", lambda: golden * N / max(1, N - 1)),
    ]


def sensitivity_findings(held: Held) -> list[Finding]:
    """S from the candidate's recorded gradients or per-sample values, and against the golden S."""
    found, slips_of = [], {} if held.replay is None else held.replay.gradients()
    for module in held.golden.modules("sensitivity"):
        name = f"sensitivity/{module}"
        if not held.candidate.has(name):
            found.append(held.skipped("sensitivity", module, "not recorded"))
            continue
        S = held.candidate.get(name)
        found += sample_sensitivities(held, module)
        verdict = _own_sensitivity(held, module, S)
        if verdict is not None:
            found.append(held.own("sensitivity", module, verdict))
        golden = held.golden.get(name)
        slips: list[Slip] = []
        if held.model is not None:
            slips = sensitivity_slips(np.asarray(held.model.weight(module), np.float64), slips_of[module])
        allowed = held.network("sensitivity", module, golden) + 4.0 * SAFETY * held.precision.accumulation * golden
        found.append(held.against_golden("sensitivity", module, "value", S, golden, allowed, slips))
    return found


def _own_sensitivity(held: Held, module: str, S: Array) -> Verdict | None:
    gradients = of_every_sample(held, held.candidate, "grad_W", module)
    if held.model is not None and gradients is not None:
        W = np.asarray(held.model.weight(module), np.float64)
        return judge_sensitivity(S, W=W, gradients=gradients, switches=held.switches, precision=held.precision)[0]
    values = of_every_sample(held, held.candidate, "sensitivity", module)
    if values is None:
        return None
    own = np.array(values, np.float64)
    allowed = np.asarray(
        SAFETY * (len(own) + 2.0) * (held.precision.accumulation + held.precision.storage) * own.mean()
    )
    slips: list[Slip] = [
        ("S is summed over the samples, not divided by N", own.sum),
        ("S is divided by N - 1", lambda: own.sum() / max(1, len(own) - 1)),
        ("S is the median over the samples", lambda: np.median(own)),
        ("S is the largest of the samples'", own.max),
    ]
    verdict = entries("sensitivity", "mean over the samples", S, np.asarray(own.mean()), allowed, slips)
    # a wrong per-sample value passes here: only a failure is news
    return None if verdict.passed else verdict


def _scores(held: Held) -> tuple[Array, str]:
    """S of all modules: the candidate's own where it has them all, else the golden ones."""
    modules = list(held.golden.shapes)
    own = all(held.candidate.has(f"sensitivity/{m}") for m in modules)
    trace = held.candidate if own else held.golden
    return np.array([float(trace.get(f"sensitivity/{m}")) for m in modules]), OWN if own else GOLDEN


def rank_findings(held: Held) -> list[Finding]:
    """Ranks from the candidate's own S (Eq. 6), and against the golden ranks."""
    modules = list(held.golden.shapes)
    if not all(held.candidate.has(f"rank/{m}") for m in modules) or not held.golden.modules("sensitivity"):
        return [held.skipped("ranks", None, "not recorded for every module")]
    ranks = np.array([float(held.candidate.get(f"rank/{m}")) for m in modules])
    S, source = _scores(held)
    judged_in = Precision.of("float64") if source == GOLDEN else held.precision
    verdict = judge_ranks(
        ranks, S, list(held.golden.shapes.values()), held.golden.manifest.r_init, held.switches, judged_in
    )
    found = [*_eq6_findings(held, S, source), held.finding("ranks", source, _named(modules, verdict), verdict)]
    if source == OWN and held.golden.modules("rank"):
        golden = np.array([float(held.golden.get(f"rank/{m}")) for m in modules])
        near = [_near_tie(held, m) for m in modules]
        verdict = entries("ranks", "ranks", ranks, golden, np.array(near))
        found.append(held.finding("ranks", GOLDEN, _named(modules, verdict), verdict))
    return found


def _eq6_findings(held: Held, S: Array, source: str) -> list[Finding]:
    """The ranks as Eq. 6 gives them, before any rule of the profile."""
    modules = list(held.golden.shapes)
    if not all(held.candidate.has(f"rank_eq6/{m}") for m in modules):
        return []
    ranks = np.array([float(held.candidate.get(f"rank_eq6/{m}")) for m in modules])
    plain = replace(held.switches, remainder="none", rank_floor=0, redistribute=False)
    boundless = [(2**31, 2**31)] * len(modules)
    judged_in = Precision.of("float64") if source == GOLDEN else held.precision
    verdict = judge_ranks(ranks, S, boundless, held.golden.manifest.r_init, plain, judged_in)
    return [held.finding("ranks", source, _named(modules, verdict), replace(verdict, what="ranks of Eq. 6"))]


def _named(modules: list[str], verdict: Verdict) -> str | None:
    return None if verdict.passed or verdict.index is None else modules[verdict.index[0]]


def _near_tie(held: Held, module: str) -> float:
    """1 where the candidate's own error in S may carry the golden share over a rounding tie, else 0."""
    m = held.golden.manifest
    S = np.array([float(held.golden.get(f"sensitivity/{name}")) for name in held.golden.shapes])
    own = held.golden.get(f"sensitivity/{module}")
    exact = len(S) * m.r_init * float(own) / S.sum()
    error = 2.0 * held.network("sensitivity", module, own) / float(own) * exact if own > 0 else 0.0
    settles = held.switches.remainder == "largest" and exact >= 0.9 * len(S) * m.r_init * S.max() / S.sum()
    return 1.0 if abs(exact - np.floor(exact) - 0.5) <= error or settles else 0.0


def scale_findings(held: Held) -> list[Finding]:
    """Scales from the candidate's own S (Eq. 7), alpha_i = r_i scale_i, and against the golden scales."""
    modules = list(held.golden.shapes)
    have = [m for m in modules if held.candidate.has(f"scale/{m}")]
    if not have or not held.golden.modules("sensitivity"):
        return [held.skipped("scales", None, "not recorded")]
    S, source = _scores(held)
    ranks = [float(held.candidate.get(f"rank/{m}")) if held.candidate.has(f"rank/{m}") else np.nan for m in modules]
    scales = np.array([float(held.candidate.get(f"scale/{m}")) if m in have else np.nan for m in modules])
    known = ~np.isnan(scales)  # a bare adapter says nothing of modules without one
    m = held.golden.manifest
    golden = np.array([float(held.golden.get(f"scale/{name}")) for name in modules])
    scales = np.where(known, scales, golden)
    verdict = judge_scales(scales, S, m.r_init, m.alpha, held.switches, held.precision, ranks=ranks)
    found = [held.finding("scales", source, _named(modules, verdict), verdict)]
    for name in have:
        if held.candidate.has(f"alpha/{name}") and held.candidate.has(f"rank/{name}"):
            product = held.candidate.get(f"rank/{name}") * held.candidate.get(f"scale/{name}")
            allowed = 8.0 * rounding_of(held) * np.abs(product)
            alpha = held.candidate.get(f"alpha/{name}")
            found.append(held.own("scales", name, entries("scales", "alpha = r scale", alpha, product, allowed)))
    if source == OWN:
        # scale_i = (alpha / r_init) S_i / mean S: of the error of S_i, and of the mean's
        errors = np.array([held.network("sensitivity", n, held.golden.get(f"sensitivity/{n}")) for n in modules])
        allowed = m.alpha / m.r_init * errors / S.mean() + np.abs(golden) * errors.sum() / S.sum()
        allowed = allowed + 16.0 * rounding_of(held) * np.abs(golden)
        if held.switches.round_alpha:
            allowed = allowed + 1.0 / m.r_init
        verdict = entries("scales", "scales", scales, golden, allowed)
        found.append(held.finding("scales", GOLDEN, _named(modules, verdict), verdict))
    return found


def rounding_of(held: Held) -> float:
    """The larger of storage and accumulation: what a number that is computed and kept may be off by."""
    return max(held.precision.storage, held.precision.accumulation)


STAGES: dict[str, Callable[[Held], list[Finding]]] = {
    "loss": loss_findings,
    "covariance": covariance_findings,
    "sensitivity": sensitivity_findings,
    "ranks": rank_findings,
    "scales": scale_findings,
    "A": initialization_findings,
    "gradient": gradient_findings,
    "adamw": adamw_findings,
    "merge": merge_findings,
}
