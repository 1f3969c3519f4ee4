"""The two sides of a comparison: the golden trace and the candidate's, with the model and how far apart they may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, NOTE, OWN_INPUTS, SKIP, Finding
from tlora_ref.oracle.stages.bounds import SAFETY, Slip, entries, malformed
from tlora_ref.oracle.stages.network import UNIT32, Network
from tlora_ref.oracle.traces.manifest import completed
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.traces.replay import Replay
from tlora_ref.oracle.verdict import Verdict
from tlora_ref.transformer import Model


class Sides:
    """The golden trace, the candidate's, the model if there is one, and how far apart they may be."""

    def __init__(
        self,
        golden: Trace,
        candidate: Trace,
        model: Model | None,
        precision: Precision,
        factors: Mapping[str, float],
        *,
        same_run: bool = False,
    ) -> None:
        self.golden, self.model, self.factors, self.same_run = golden, model, factors, same_run
        #: What the candidate recorded that is not finite is wrong, and as good as not recorded for all else.
        self.not_finite = candidate.not_finite()
        self.candidate = candidate.without(self.not_finite) if self.not_finite else candidate
        self.precision = precision
        self.switches = golden.manifest.resolved()
        #: The optimizer's settings that the candidate is judged by: its own, where it says them, else the golden run's.
        self.train = completed(golden.manifest.train, candidate.manifest.train)
        self.replay = None if model is None else Replay(model, golden)
        self.network = Network(golden.manifest.noise, precision)
        self.said = {
            "dtype": precision.name,
            "one operation": f"{SAFETY:g} (sqrt(k) + 1) eps sum|a||b|, eps = {precision.accumulation:.3g}, "
            f"and {precision.storage:.3g} of the result for its storage",
            "the whole network": self.network.said(),
            **{f"factor of {stage}": f"{factor:g}" for stage, factor in factors.items()},
        }

    def with_noise(self, noise: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Sides:
        """The same two sides with the noise of the network measured elsewhere, by precision, quantity and key."""
        other = copy(self)
        other.network = Network(noise, self.precision)
        return other

    @property
    def letters(self) -> str:
        """The matrices that this profile trains."""
        return "B" if self.switches.freeze_A else "BA"

    @property
    def unit(self) -> float:
        """The largest of the candidate's roundings."""
        return self.network.unit

    def shown(self, arrays: Sequence[Array]) -> Precision:
        """The precision that these arrays are kept in: float32 where none of them is what a lower one could hold.

        Adapters are often kept in float32 beside a model in bfloat16, and updated so.
        """
        finer = self.precision.storage > UNIT32 and all(self.network.kept(x) <= UNIT32 for x in arrays)
        return Precision.of("float32") if finer else self.precision

    def own(self, stage: str, module: str | None, verdict: Verdict) -> Finding:
        """A verdict on the candidate's own inputs."""
        return self.finding(stage, OWN_INPUTS, module, verdict)

    def against_golden(
        self, stage: str, module: str | None, what: str, got: Array, golden: Array, allowed: Any, slips: Iterable[Slip]
    ) -> Finding:
        """A candidate's quantity held against the golden one."""
        return self.finding(stage, GOLDEN, module, entries(stage, what, got, golden, allowed, slips))

    def finding(self, stage: str, against: str, module: str | None, verdict: Verdict) -> Finding:
        factor = self.factors.get(stage, 1.0)
        if factor != 1.0:
            allowed, seen = verdict.allowed * factor, verdict.detects
            seen = None if seen is None else seen * factor
            verdict = replace(verdict, allowed=allowed, passed=verdict.error <= allowed, detects=seen)
        return Finding(stage, against, module, verdict, "")

    def skipped(self, stage: str, module: str | None, why: str) -> Finding:
        """What could not be checked, and why."""
        return Finding(stage, OWN_INPUTS, module, None, SKIP, why)

    def noted(self, stage: str, why: str, module: str | None = None) -> Finding:
        """What a reader should know of how a stage was judged."""
        return Finding(stage, OWN_INPUTS, module, None, NOTE, why)

    @property
    def adapted(self) -> list[str]:
        """The modules with a rank: by the candidate's own ranks where it has them all, else by the golden ones."""
        ranks = {m: f"rank/{m}" for m in self.golden.shapes}
        trace = self.candidate if all(map(self.candidate.has, ranks.values())) else self.golden
        return [m for m, name in ranks.items() if trace.has(name) and trace.get(name) > 0]

    def missing(self, stage: str, quantity: str, module: str) -> Finding | None:
        """That the candidate gives a module a rank and no such matrix, where it records those of other modules."""
        c = self.candidate
        rank = float(c.get(f"rank/{module}")) if c.has(f"rank/{module}") else 0.0
        if rank == 0.0 or c.has(f"{quantity}/{module}") or not c.modules(quantity):
            return None
        return self.own(stage, module, malformed(stage, quantity, f"the rank is {rank:g}, and there is no matrix"))

    def both(self, name: str) -> bool:
        """Whether both traces have this quantity."""
        return self.golden.has(name) and self.candidate.has(name)

    @property
    def rounding(self) -> float:
        """The larger of storage and accumulation: what a number that is computed and kept may be off by."""
        return max(self.precision.storage, self.precision.accumulation)

    def weight(self, module: str) -> Array | None:
        """W (d_out, d_in) in float64, of the model or of a golden trace that holds it; None where neither is there."""
        if self.model is not None:
            return np.asarray(self.model.weight(module), np.float64)
        return self.golden.get(f"weight/{module}") if self.golden.has(f"weight/{module}") else None

    def of_every_sample(self, trace: Trace, quantity: str, module: str) -> list[Array] | None:
        """A quantity of a module on every sample, where all were recorded."""
        names = [f"sample/{n}/{quantity}/{module}" for n in range(self.golden.manifest.samples)]
        return [trace.get(name) for name in names] if names and all(map(trace.has, names)) else None

    def of_another(self, quantity: str, module: str, got: Array) -> Iterator[Slip]:
        """What a module's array would be if it were another module's: of those of its shape the nearest to `got`."""
        names = [f"{quantity}/{m}" for m in self.golden.modules(quantity) if m != module]
        others = [x for x in map(self.golden.get, names) if x.shape == got.shape]
        if others:
            yield "it is that of another module", lambda: min(others, key=lambda x: float(np.linalg.norm(x - got)))

    def scores(self) -> tuple[Array, str]:
        """S of all modules: the candidate's own where it has them all and they have shares, else the golden ones."""
        names = [f"sensitivity/{m}" for m in self.golden.shapes]
        if all(map(self.candidate.has, names)):
            own = np.array([float(self.candidate.get(name)) for name in names])
            if own.min() >= 0.0 and own.sum() > 0.0:  # else there are no shares: a mistake of the stage before
                return own, OWN_INPUTS
        return np.array([float(self.golden.get(name)) for name in names]), GOLDEN

    def A_before(self, step: int, m: str) -> Array | None:
        """The candidate's A as step `step` found it; None where it trains A and did not record it."""
        c = self.candidate
        trained = f"train/{step - 1}/A/{m}"
        if step > 1 and c.has(trained):
            return c.get(trained)
        return c.get(f"A/{m}") if (step == 1 or self.switches.freeze_A) and c.has(f"A/{m}") else None


def named(modules: list[str], verdict: Verdict) -> str | None:
    """The module that a verdict over all of them is about, if it is wrong."""
    return None if verdict.passed or verdict.index is None else modules[verdict.index[0]]
