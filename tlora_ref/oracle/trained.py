"""The later stages of a trace judged: A, the gradients of B, AdamW, the merged weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.adamw import clip_factor
from tlora_ref.method.schedule import learning_rate
from tlora_ref.oracle.format import SAMPLE_FIELDS, Trace
from tlora_ref.oracle.judges.adapted import gradient_slips, judge_merge
from tlora_ref.oracle.judges.bounds import OWN, SAFETY, entries
from tlora_ref.oracle.judges.initialization import judge_initialize_a, row_space, spectrum, svd_unit
from tlora_ref.oracle.judges.training import NAMES, judge_adamw_step
from tlora_ref.oracle.report import Finding
from tlora_ref.oracle.verdict import Verdict

if TYPE_CHECKING:
    from tlora_ref.oracle.held import Held


def initialization_findings(held: Held) -> list[Finding]:
    """A from the candidate's own C and rank (the weights are needed), and against the golden C."""
    found = []
    for module in held.golden.modules("A"):
        if not held.candidate.has(f"A/{module}"):
            found.append(held.skipped("A", module, "not recorded (or rank 0)"))
        elif held.golden.manifest.init != "wc-svd":
            found.append(held.skipped("A", module, f'init "{held.golden.manifest.init}" is not judged by its rows'))
        elif held.model is None:
            found.append(_A_without_weights(held, module))
        else:
            found += _A_with_weights(held, module)
    return found


def _A_with_weights(held: Held, module: str) -> list[Finding]:
    assert held.model is not None
    A, W = held.candidate.get(f"A/{module}"), np.asarray(held.model.weight(module), np.float64)
    name = f"covariance/{module}"
    judging = {"W": W, "r": len(A), "switches": held.switches, "precision": held.precision}
    found = []
    if held.candidate.has(name):
        judged = judge_initialize_a(A, C=held.candidate.get(name), **judging)  # type: ignore[arg-type]
        found = [held.own("A", module, verdict) for verdict in judged]
    found += _singular_values(held, module, W)
    if held.golden.has(name):
        C = held.golden.get(name)
        gold = spectrum(W, C, held.switches, held.precision)
        noise = held.network("covariance", module, C) if held.candidate.has(name) else 0.0
        noise *= float(np.linalg.norm(W, ord=2)) * len(C)
        looser = type(gold)(gold.M, gold.sigma, gold.Vt, gold.error + noise)
        verdict = row_space("A", A, looser, 8.0 * held.unit * len(A) ** 0.5)
        if not held.candidate.has(name):  # a bare adapter: the golden C is all there is, and it tells the cause too
            judged = judge_initialize_a(A, C=C, **judging)  # type: ignore[arg-type]
            return [held.finding("A", "golden", module, v) for v in judged]
        found.append(held.finding("A", "golden", module, verdict))
    return found


def _singular_values(held: Held, module: str, W: Array) -> list[Finding]:
    """sigma of W C, with the candidate's own C: each moves by at most the error in W C (Weyl 1912)."""
    names = f"sigma/{module}", f"covariance/{module}"
    if not all(map(held.candidate.has, names)):
        return []
    own = spectrum(W, held.candidate.get(names[1]), held.switches, held.precision)
    expected = own.sigma[: min(W.shape)]
    return [held.own("A", module, entries("A", "singular values", held.candidate.get(names[0]), expected, own.error))]


def _A_without_weights(held: Held, module: str) -> Finding:
    """Row spaces of two A of one rank, where the golden singular values make the cut sharp."""
    A, golden = held.candidate.get(f"A/{module}"), held.golden.get(f"A/{module}")
    sigma = held.golden.get(f"sigma/{module}") if held.golden.has(f"sigma/{module}") else np.zeros(0)
    r = len(golden)
    if not held.golden.has(f"covariance/{module}"):
        return held.skipped("A", module, "the golden trace has no covariance: give --checkpoint to judge it")
    if len(A) != r or len(sigma) < r:
        return held.skipped("A", module, "another rank than the golden one: give --checkpoint to judge it")
    below = float(sigma[r]) if r < len(sigma) else 0.0
    C = held.golden.get(f"covariance/{module}")
    moved = held.network("covariance", module, C) / (float(np.abs(C).max()) or 1.0) * len(C)
    gap = (float(sigma[r - 1]) - below) / (float(sigma[0]) or 1.0)
    unit = max(held.unit, svd_unit(held.switches))
    turn = 2.0 * (moved + 64.0 * unit) / gap if gap > 0 else 1.0
    if turn > 0.5:
        return held.skipped("A", module, "the cut splits a cluster of singular values: give --checkpoint to judge it")
    sine = float(np.linalg.norm(A.T - golden.T @ (golden @ A.T), ord=2))
    allowed = turn + 8.0 * unit * r**0.5
    return held.finding("A", "golden", module, Verdict("A", "row space", sine <= allowed, sine, allowed, (r,)))


def _A_before(held: Held, step: int, m: str) -> Array | None:
    """The candidate's A as step `step` found it; None where it trains A and did not record it."""
    c = held.candidate
    trained = f"train/{step - 1}/A/{m}"
    if step > 1 and c.has(trained):
        return c.get(trained)
    return c.get(f"A/{m}") if (step == 1 or held.switches.freeze_A) and c.has(f"A/{m}") else None


def _matrices(held: Held, step: int) -> tuple[dict[str, Array], dict[str, Array], dict[str, float]] | None:
    """The candidate's A and B before `step` and its scales, where it recorded them all."""
    c, modules = held.candidate, held.adapted
    A, B, scale = {}, {}, {}
    for m in modules:
        before, own_A = f"train/{step - 1}/B/{m}", _A_before(held, step, m)
        if own_A is None or not c.has(f"scale/{m}") or (step > 1 and not c.has(before)):
            return None
        A[m], scale[m] = own_A, float(c.get(f"scale/{m}"))
        B[m] = c.get(before) if step > 1 else np.zeros((held.golden.shapes[m][0], len(own_A)))
    return (A, B, scale) if modules else None


def gradient_findings(held: Held) -> list[Finding]:
    """The gradients of every step from the candidate's own A, B and batch (the model is needed); a frozen A stays."""
    found: list[Finding] = _frozen(held)
    for step in held.candidate.numbered("train", "labels"):
        found += _batch(held, step)
    steps = held.candidate.numbered("train", "grad_B")
    if not steps:
        return [*found, held.skipped("gradient", None, "no grad_B recorded")]
    if held.replay is None:
        return [*found, held.skipped("gradient", None, "needs the weights: give --checkpoint")]
    for step in steps:
        matrices = _matrices(held, step)
        fields = [f"train/{step}/{name}" for name in SAMPLE_FIELDS if held.golden.has(f"train/{step}/{name}")]
        batch = held.candidate if all(map(held.candidate.has, fields)) else held.golden
        if matrices is None or not {f"train/{step}/input_ids", f"train/{step}/labels"} <= set(fields):
            found.append(held.skipped("gradient", None, f"step {step}: A, B, scale or the batch is not recorded"))
            continue
        expected, loss = held.replay.step(batch, step, *matrices, letters=held.letters)
        most = held.golden.manifest.train.get("max_grad_norm") or math.inf
        clip = clip_factor(math.sqrt(sum(float((g**2).sum()) for g in expected.values())), most)
        tokens = int((batch.get(f"train/{step}/labels") != -100).sum())
        for (letter, m), right in expected.items():
            name, what = f"train/{step}/grad_{letter}/{m}", f"dL/d{letter} of step {step}"
            if not held.candidate.has(name):
                found.append(held.skipped("gradient", m, f"{what} is not recorded"))
                continue
            slips = gradient_slips(right, matrices[2][m], tokens, len(matrices[0][m]))
            slips.append(("it is recorded after clipping, not before", lambda g=right, f=clip: g * f))  # type: ignore[misc]
            allowed = held.network(f"grad_{letter}", f"{step}/{m}", right)
            found.append(
                held.own("gradient", m, entries("gradient", what, held.candidate.get(name), right, allowed, slips))
            )
        found += _training_loss(held, step, np.array(loss))
    return found


def _batch(held: Held, step: int) -> list[Finding]:
    """Says where a step is made on other samples than the golden one, by the scored labels of its rows."""
    name = f"train/{step}/labels"

    def rows(trace: Trace) -> list[list[int]]:
        labels = trace.get(name)
        return sorted(row[row != -100].tolist() for row in labels.reshape(len(labels), -1))

    if not held.both(name) or rows(held.candidate) == rows(held.golden):
        return []
    why = f"step {step}: made on other samples than the golden run's, and judged on those"
    return [held.skipped("gradient", None, why)]


def _training_loss(held: Held, step: int, loss: Array) -> list[Finding]:
    if not held.candidate.has("train/loss"):
        return []
    got, allowed = held.candidate.get("train/loss")[step - 1], held.network("train_loss", str(step), loss)
    return [held.own("gradient", None, entries("gradient", f"training loss of step {step}", got, loss, allowed))]


def _frozen(held: Held) -> list[Finding]:
    """Where A is frozen and the candidate recorded it during training, it never moved."""
    if not held.switches.freeze_A:
        return []
    found = []
    for step in held.candidate.numbered("train", "A"):
        for m in held.candidate.modules(f"train/{step}/A"):
            now, then = held.candidate.get(f"train/{step}/A/{m}"), held.candidate.get(f"A/{m}")
            verdict = entries("gradient", f"A is frozen (step {step})", now, then, np.zeros_like(then))
            if not verdict.passed:
                verdict = Verdict(**{**verdict.to_dict(), "cause": "A was trained: TLoRA freezes it"})
            found.append(held.own("gradient", m, verdict))
    return found


def adamw_findings(held: Held) -> list[Finding]:
    """Every recorded update from the candidate's own gradient, moments and matrix before it; and the learning rates."""
    c, train = held.candidate, held.golden.manifest.train
    steps = c.numbered("train", "grad_B")
    if not steps or not train:
        return [held.skipped("adamw", None, "no training recorded")]
    found = [_rates(held)] if c.has("train/lr") and held.golden.has("train/lr") else []
    for step in steps:
        clip = _clip(held, step)
        for letter in held.letters:
            for m in c.modules(f"train/{step}/grad_{letter}"):
                if clip is None:
                    why = f"step {step}: clipped by the norm of all gradients, which are not all recorded"
                    found.append(held.skipped("adamw", m, why))
                else:
                    found += _update(held, step, letter, m, clip)
    return found


@dataclass(frozen=True)
class Clip:
    """What all gradients of a step are multiplied with, how far that may be off, relatively, and their norm."""

    factor: float = 1.0
    error: float = 0.0
    norm: float = 0.0


def _clip(held: Held, step: int) -> Clip | None:
    """By the golden run's settings, of the candidate's gradients; None where it cannot be told."""
    most = held.golden.manifest.train.get("max_grad_norm")
    if most is None:
        return Clip()
    names = [f"train/{step}/grad_{letter}/{m}" for letter in held.letters for m in held.adapted]
    if not all(map(held.candidate.has, names)):
        return None
    gradients = [held.candidate.get(name) for name in names]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    # the norm of each matrix, that of the norms, the factor and the product: each is rounded to the storage
    p, numbers = held.precision, sum(g.size for g in gradients)
    error = 4.0 * p.storage + SAFETY * (math.sqrt(numbers) + 1.0) * (p.accumulation + OWN)
    return Clip(clip_factor(norm, most), error if norm * (1.0 + error) > most else 0.0, norm)


def _rates(held: Held) -> Finding:
    """The learning rate of each step, from the golden run's settings."""
    train, got = held.golden.manifest.train, held.candidate.get("train/lr")
    schedule = {"schedule": train["schedule"], "warmup_ratio": train["warmup_ratio"]}
    total = int(train["steps"])
    right = np.array([learning_rate(t, total, train["lr"], **schedule) for t in range(len(got))])
    return held.own("adamw", None, entries("adamw", "learning rates", got, right, 8.0 * held.unit * train["lr"]))


def _other_updates(held: Held, step: int, grad: Array, norm: float) -> list[tuple[str, dict[str, Any]]]:
    """What slips with the clipping and the learning rate put into a step; `grad` is not clipped, `norm` of them all."""
    most, c = held.golden.manifest.train.get("max_grad_norm"), held.candidate
    found: list[tuple[str, dict[str, Any]]] = []
    if most is not None:
        found = [
            ("the gradient is not clipped", {"grad": grad}),
            (
                "each matrix is clipped by its own norm",
                {"grad": clip_factor(float(np.linalg.norm(grad)), most) * grad},
            ),
            ("the gradient is clipped entry by entry", {"grad": np.clip(grad, -most, most)}),
            ("the gradient is clipped to norm 1, not to max_grad_norm", {"grad": clip_factor(norm, 1.0) * grad}),
        ]
    rates = (c if c.has("train/lr") else held.golden).get("train/lr")
    for text, t in (("before", step - 2), ("after", step)):
        if 0 <= t < len(rates):
            found.append((f"the learning rate is that of the step {text}", {"lr": float(rates[t])}))
    return found


def _update(held: Held, step: int, letter: str, m: str, clip: Clip) -> list[Finding]:
    c, train = held.candidate, held.golden.manifest.train
    kinds = NAMES if letter == "B" else ("A", *(f"A_{name}" for name in NAMES[1:]))
    after = [f"train/{step}/{kind}/{m}" for kind in kinds]
    before = [f"train/{step - 1}/{kind}/{m}" for kind in kinds]
    first = [f"A/{m}"] if letter == "A" else []
    if not c.has(after[0]) or not all(map(c.has, before if step > 1 else first)):
        return [held.skipped("adamw", m, f"step {step}: {letter} or the moments before it are not recorded")]
    whole = c.get(f"train/{step}/grad_{letter}/{m}")
    grad = clip.factor * whole
    weight, exp_avg, exp_avg_sq = (c.get(name) if step > 1 else np.zeros_like(grad) for name in before)
    if letter == "A" and step == 1:
        weight = c.get(f"A/{m}")
    settings = {name: train[name] for name in ("eps", "weight_decay")} | {"betas": tuple(train["betas"])}
    lr = float(c.get("train/lr")[step - 1]) if c.has("train/lr") else float(held.golden.get("train/lr")[step - 1])
    if not all(map(c.has, after)):  # without moments: the matrix alone
        after = [after[0]]
    got = [c.get(name) for name in after]
    judged = judge_adamw_step(
        (got[0], *(got[1:] or (np.zeros_like(grad),) * 2)),
        B=weight, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, step=step, lr=lr,
        switches=held.switches, precision=held.precision, grad_error=clip.error,
        others=_other_updates(held, step, whole, clip.norm), **settings,
    )  # fmt: skip
    kept = [v for v in judged if len(got) == 3 or v.what == "B"]
    return [held.own("adamw", m, replace(v, what=kinds[NAMES.index(v.what)])) for v in kept]


def merge_findings(held: Held) -> list[Finding]:
    """W' from the candidate's own A, B and scale; W_0 from the model, or from the golden merge undone."""
    found, c = [], held.candidate
    last = max([*c.numbered("train", "B"), _steps(held)])
    for m in held.golden.modules("merged"):
        A = _A_before(held, last + 1, m)
        names = [f"merged/{m}", f"scale/{m}", *([f"train/{last}/B/{m}"] if last else [])]
        if A is None or not all(map(c.has, names)):
            found.append(held.skipped("merge", m, "the merged weight, A, B or the scale is not recorded"))
            continue
        W = _frozen_weight(held, m)
        if W is None:
            found.append(held.skipped("merge", m, "needs the weights: give --checkpoint"))
            continue
        got, scale = c.get(names[0]), float(c.get(names[1]))
        B = c.get(names[2]) if last else np.zeros((len(W), len(A)))
        judged = judge_merge(got, W=W, A=A, B=B, scale=scale, switches=held.switches, precision=held.precision)
        found += [held.own("merge", m, verdict) for verdict in judged]
    return found


def _frozen_weight(held: Held, m: str) -> Array | None:
    if held.model is not None:
        return np.asarray(held.model.weight(m), np.float64)
    g, last = held.golden, _steps(held)
    if last == 0:
        return g.get(f"merged/{m}")  # B is zero: merged is W_0
    A, B, scale = f"A/{m}" if held.switches.freeze_A else f"train/{last}/A/{m}", f"train/{last}/B/{m}", f"scale/{m}"
    if not all(map(g.has, (A, B, scale))):
        return None
    return g.get(f"merged/{m}") - float(g.get(scale)) * (g.get(B) @ g.get(A))


def _steps(held: Held) -> int:
    """How many steps the golden run trained for."""
    return int(held.golden.manifest.train.get("steps") or 0)
