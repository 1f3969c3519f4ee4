"""Stage "loss" (Alg. 1, line 8): the mean cross entropy of every sample.

Judged by the candidate's own logits where it recorded them, and against the golden loss. What is wrong with a loss is
told from logits: the candidate's own, or those of the model run again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, entries, lower_median, rounding_between
from tlora_ref.oracle.stages.shares import judge_sum
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.verdict import Verdict


def findings(sides: Sides) -> list[Finding]:
    """Each sample's logits and loss against the golden ones, the loss from the candidate's own logits too.

    The logits, of the candidate or of a replay, say what is wrong with a loss.
    """
    found: list[Finding] = []
    pairs: dict[str, tuple[Array, Array]] = {}
    for n in sides.golden.numbered("sample", "logits"):
        name = f"sample/{n}/logits"
        if sides.both(name):
            got, golden, what = sides.candidate.get(name), sides.golden.get(name), f"logits of sample {n}"
            verdict = sides.network.array("loss", what, "logits", str(n), got, golden)
            found.append(sides.finding("loss", GOLDEN, None, verdict))
    losses = sides.golden.numbered("sample", "loss")
    for n in losses:
        name = f"sample/{n}/loss"
        if not sides.both(name):
            found.append(sides.skipped("loss", None, f"sample {n}: no loss recorded"))
            continue
        got, golden = sides.candidate.get(name), sides.golden.get(name)
        told = _slips_of_loss(float(golden))
        slips = itertools.chain(_order_slips(sides, n, losses), told, _slips_of(sides, n))  # a replay only if it fails
        allowed = sides.network("loss", str(n), golden, got) + mean_error(sides, f"sample/{n}/labels", golden)
        pairs[str(n)] = (got, golden)
        if _is_shifted(sides, n) and sides.candidate.has(f"sample/{n}/logits"):
            found += [
                sides.own("loss", None, verdict) for verdict in _judged(sides, sides.candidate, n, sides.precision)
            ]
        found.append(sides.against_golden("loss", None, f"loss of sample {n}", got, golden, allowed, slips))
    together = sides.network.numbers("loss", "losses of all samples", "loss", pairs)
    if together is not None:
        found.append(sides.finding("loss", GOLDEN, None, together))
    if all(f.verdict is None or f.verdict.passed for f in found):
        summed = judge_sum(sides.network, "sum of all losses", "loss", pairs)
        found += [sides.finding("loss", GOLDEN, None, verdict) for verdict in summed]
    return found


def mean_error(sides: Sides, labels: str, loss: Array) -> float:
    """How far the mean over the scored tokens may be off, summed one after the other."""
    scored = int((sides.golden.get(labels) != -100).sum()) if sides.golden.has(labels) else 1
    return SAFETY * (math.sqrt(scored) + 1.0) * sides.precision.accumulation * abs(float(loss))


def _slips_of(sides: Sides, n: int) -> Iterator[Slip]:
    """What the loss of sample n would be after each known slip, from the model run again (a causal one) when asked."""
    if sides.replay is None or sides.replay.model.task_type != "CAUSAL_LM":
        return
    logits, labels = sides.replay.logits(n), np.asarray(sides.golden.get(f"sample/{n}/labels")).ravel()
    logits, ids = logits.reshape(len(labels), -1), sides.golden.get(f"sample/{n}/input_ids").ravel()
    yield from loss_slips(logits, labels)
    yield "the prompt is scored too", lambda: _cross_entropy(logits[:-1], np.asarray(ids, np.int64)[1:])


def _order_slips(sides: Sides, n: int, losses: list[int]) -> list[Slip]:
    """What the loss of sample n would be if the samples, of numbers `losses`, came in another order."""
    N = len(losses)
    if losses != list(range(N)) or N < 3:  # of two all orders coincide
        return []

    def loss_of(k: int) -> Callable[[], Array]:
        return lambda: sides.golden.get(f"sample/{k % N}/loss")

    return [
        ("the samples are taken in reverse order", loss_of(N - 1 - n)),
        ("it is the loss of the sample before: the samples are shifted by one", loss_of(n - 1)),
        ("it is the loss of the sample after: the samples are shifted by one", loss_of(n + 1)),
        ("it is the loss of the first sample throughout", loss_of(0)),
        ("it is the loss of the last sample throughout", loss_of(N - 1)),
    ]


def _is_shifted(sides: Sides, n: int) -> bool:
    """Whether sample n is a causal model's: the golden loss follows from the golden logits, labels shifted by one."""
    g = sides.golden
    names = [f"sample/{n}/{name}" for name in ("loss", "logits", "labels")]
    if not all(map(g.has, names)) or g.get(names[1]).ndim != 2 or g.get(names[2]).shape != g.get(names[1]).shape[:1]:
        return False
    return all(verdict.passed for verdict in _judged(sides, g, n, Precision.of(g.manifest.dtype)))


def _judged(sides: Sides, trace: Trace, n: int, precision: Precision) -> list[Verdict]:
    """The loss of a sample from the logits of the same trace."""
    loss, logits = trace.get(f"sample/{n}/loss"), trace.get(f"sample/{n}/logits")
    labels = sides.golden.get(f"sample/{n}/labels")
    return judge_loss(loss, logits=logits, labels=labels, switches=sides.switches, precision=precision)


def judge_loss(got: object, *, logits: Array, labels: Array, switches: Switches, precision: Precision) -> list[Verdict]:
    """The mean cross entropy over the labelled tokens of one sample, labels shifted by one."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    expected = Reference().loss(logits, labels)
    # log-sum-exp over V terms at the size of the largest logit, and the mean over the labelled tokens
    size = float(np.abs(logits).max()) + math.log(logits.shape[1]) + 1.0
    tokens = int((labels[1:] != -100).sum())
    reach = math.sqrt(logits.shape[1]) + math.sqrt(tokens) + 4.0
    allowed = SAFETY * reach * (precision.accumulation + OWN) * size + precision.storage * abs(expected)
    # in a low precision the log-sum-exp and the loss of every token are rounded too, before their mean
    allowed += rounding_between(precision) * (size + abs(expected))
    return [entries("loss", "value", got, np.float64(expected), np.float64(allowed), loss_slips(logits, labels))]


def _cross_entropy(scores: Array, targets: Array, *, divisor: int | None = None) -> float:
    kept = targets != -100
    scores, targets = scores[kept], targets[kept]
    log_sum = np.logaddexp.reduce(scores, axis=1)
    total = (log_sum - scores[np.arange(len(targets)), targets]).sum()
    return float(total / max(1, len(targets) if divisor is None else divisor))


def _of_some(logits: Array, labels: Array, choose: Callable[[Array], Array]) -> float:
    """The loss of the labels at chosen ones of their positions."""
    at = choose(np.flatnonzero(labels[1:] != -100))
    return _cross_entropy(logits[:-1][at], labels[1:][at]) if len(at) else math.nan


def _by_token(logits: Array, labels: Array) -> Array:
    at = np.flatnonzero(labels[1:] != -100)
    return np.array([_cross_entropy(logits[i : i + 1], labels[i + 1 : i + 2]) for i in at])


def _spread(logits: Array, labels: Array) -> float:
    """The mean over the scored tokens and the vocabulary of -log p."""
    scores = logits[:-1][labels[1:] != -100]
    return float((np.logaddexp.reduce(scores, axis=1) - scores.mean(axis=1)).mean())


def _slips_of_loss(loss: float) -> list[Slip]:
    """What a loss would be after slips that are told from it alone."""
    return [
        ("it is the perplexity, exp of the mean", lambda: np.exp(np.float64(min(loss, 700.0)))),
        ("logarithm to base 2", lambda: np.float64(loss / math.log(2.0))),
        ("the sign is flipped", lambda: np.float64(-loss)),
    ]


def loss_slips(logits: Array, labels: Array) -> list[Slip]:
    """What the loss would be after each known slip."""
    tokens, expected = len(labels), Reference().loss(logits, labels)
    scored = int((labels[1:] != -100).sum())
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
        ("the last label is lost", lambda: _of_some(logits, labels, lambda at: at[:-1])),
        ("the first label is lost", lambda: _of_some(logits, labels, lambda at: at[1:])),
        ("the last token alone is scored", lambda: _of_some(logits, labels, lambda at: at[-1:])),
        ("every second label is lost", lambda: _of_some(logits, labels, lambda at: at[at % 2 == 1])),
        ("labels are smoothed by 0.1", lambda: 0.9 * expected + 0.1 * _spread(logits, labels)),
        ("the largest loss of a token, not the mean", lambda: _by_token(logits, labels).max()),
        ("the median loss of a token, not the mean", lambda: np.median(_by_token(logits, labels))),
        ("the median (the lower of two) loss of a token", lambda: lower_median(_by_token(logits, labels))),
        ("divided by the root of the tokens", lambda: _by_token(logits, labels).sum() / math.sqrt(scored)),
        ("it is the mean probability of the labels", lambda: np.exp(-_by_token(logits, labels)).mean()),
        *_slips_of_loss(expected),
    ]
