"""What each sample leaves in a trace, judged: its logits and loss, the rows of every module's input and their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.format import Trace
from tlora_ref.oracle.judges.bounds import SAFETY, entries, sum_error
from tlora_ref.oracle.judges.statistics import judge_loss, judge_sensitivity
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.report import Finding
from tlora_ref.oracle.verdict import Verdict

if TYPE_CHECKING:
    from tlora_ref.oracle.held import Held

#: Where no noise was measured, a sum over a sample's tokens is never allowed more of its largest entry than this.
MOST = 0.25


def loss_findings(held: Held) -> list[Finding]:
    """Each sample's logits and loss against the golden ones, the loss from the candidate's own logits too.

    The logits, of the candidate or of a replay, say what is wrong with a loss.
    """
    found = []
    for n in held.golden.numbered("sample", "logits"):
        name = f"sample/{n}/logits"
        if held.both(name):
            golden = held.golden.get(name)
            allowed = held.network("logits", str(n), golden)
            got = held.candidate.get(name)
            found.append(held.against_golden("loss", None, f"logits of sample {n}", got, golden, allowed, []))
    for n in held.golden.numbered("sample", "loss"):
        name = f"sample/{n}/loss"
        if not held.both(name):
            found.append(held.skipped("loss", None, f"sample {n}: no loss recorded"))
            continue
        got, golden = held.candidate.get(name), held.golden.get(name)
        slips = [] if held.replay is None else held.replay.loss_slips(n)
        allowed = held.network("loss", str(n), golden)
        if _is_shifted(held, n) and held.candidate.has(f"sample/{n}/logits"):
            found += [held.own("loss", None, verdict) for verdict in _judged(held, held.candidate, n, held.precision)]
        found.append(held.against_golden("loss", None, f"loss of sample {n}", got, golden, allowed, slips))
    return found


def _is_shifted(held: Held, n: int) -> bool:
    """Whether sample n is a causal model's: the golden loss follows from the golden logits, labels shifted by one."""
    g = held.golden
    names = [f"sample/{n}/{name}" for name in ("loss", "logits", "labels")]
    if not all(map(g.has, names)) or g.get(names[1]).ndim != 2 or g.get(names[2]).shape != g.get(names[1]).shape[:1]:
        return False
    return all(verdict.passed for verdict in _judged(held, g, n, Precision.of(g.manifest.dtype)))


def _judged(held: Held, trace: Trace, n: int, precision: Precision) -> list[Verdict]:
    """The loss of a sample from the logits of the same trace."""
    loss, logits = trace.get(f"sample/{n}/loss"), trace.get(f"sample/{n}/logits")
    labels = held.golden.get(f"sample/{n}/labels")
    return judge_loss(loss, logits=logits, labels=labels, switches=held.switches, precision=precision)


def of_every_sample(held: Held, trace: Trace, quantity: str, module: str) -> list[Array] | None:
    """A quantity of a module on every sample, where all were recorded."""
    names = [f"sample/{n}/{quantity}/{module}" for n in range(held.golden.manifest.samples)]
    return [trace.get(name) for name in names] if names and all(map(trace.has, names)) else None


def sample_sensitivities(held: Held, module: str) -> list[Finding]:
    """mean|W * dLoss_n/dW| of each sample: from the candidate's own gradient, and against the golden one."""
    found, N = [], held.golden.manifest.samples
    for n in range(N):
        name, gradient = f"sample/{n}/sensitivity/{module}", f"sample/{n}/grad_W/{module}"
        if not held.both(name):
            continue
        got, golden, what = held.candidate.get(name), held.golden.get(name), f"value of sample {n}"
        if held.model is not None and held.candidate.has(gradient):
            W, G = np.asarray(held.model.weight(module), np.float64), [held.candidate.get(gradient)]
            rules = {"switches": held.switches, "precision": held.precision}
            (verdict,) = judge_sensitivity(got, W=W, gradients=G, **rules)  # type: ignore[arg-type]
            found.append(held.own("sensitivity", module, replace(verdict, what=what)))
        # what was measured is the error of the mean over the samples: one of them may have all of it
        rounding = 4.0 * SAFETY * held.precision.accumulation * golden
        allowed = N * held.network("sensitivity", module, golden) + rounding
        found.append(held.against_golden("sensitivity", module, what, got, golden, allowed, []))
    return found


def sample_findings(held: Held, module: str) -> list[Finding]:
    """How many rows X_n has, and their sum: from the candidate's own X_n, and against the golden ones."""
    found = []
    for n in range(held.golden.manifest.samples):
        tokens, total, rows = (f"sample/{n}/{name}/{module}" for name in ("tokens", "input_sum", "input"))
        if held.both(tokens):
            got, golden = held.candidate.get(tokens), held.golden.get(tokens)
            what = f"rows of X of sample {n}"
            found.append(held.against_golden("covariance", module, what, got, golden, np.zeros(()), []))
        if held.candidate.has(total) and held.candidate.has(rows):
            X = held.candidate.get(rows)
            allowed = sum_error(np.abs(X).sum(axis=0), len(X), held.precision)
            allowed = allowed + held.precision.storage * np.abs(X.sum(axis=0))
            verdict = entries(
                "covariance", f"sum of X of sample {n}", held.candidate.get(total), X.sum(axis=0), allowed
            )
            found.append(held.own("covariance", module, verdict))
        if held.both(total):
            got, golden = held.candidate.get(total), held.golden.get(total)
            most = MOST * float(np.abs(golden).max(initial=0.0))
            bound = min(held.network("input_sum", f"{n}/{module}", golden), most)
            what = f"sum of X of sample {n}"
            found.append(held.against_golden("covariance", module, what, got, golden, bound, []))
    return found
