"""The later stages of a trace judged: A, the gradients of B, AdamW, the merged weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.schedule import learning_rate
from tlora_ref.oracle.judges.adapted import gradient_slips, judge_merge
from tlora_ref.oracle.judges.bounds import entries
from tlora_ref.oracle.judges.initialization import judge_initialize_a, row_space, spectrum
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
    if held.golden.has(name):
        C = held.golden.get(name)
        gold = spectrum(W, C, held.switches, held.precision)
        noise = held.network("covariance", module, C) if held.candidate.has(name) else 0.0
        noise *= float(np.linalg.norm(W, ord=2)) * len(C)
        looser = type(gold)(gold.M, gold.sigma, gold.Vt, gold.error + noise)
        verdict = row_space("A", A, looser, 8.0 * held.unit * len(A) ** 0.5)
        if not found:  # a bare adapter: the golden C is all there is, and it tells the cause too
            judged = judge_initialize_a(A, C=C, **judging)  # type: ignore[arg-type]
            return [held.finding("A", "golden", module, v) for v in judged]
        found.append(held.finding("A", "golden", module, verdict))
    return found


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
    turn = 2.0 * (moved + 64.0 * held.unit) / gap if gap > 0 else 1.0
    if turn > 0.5:
        return held.skipped("A", module, "the cut splits a cluster of singular values: give --checkpoint to judge it")
    sine = float(np.linalg.norm(A.T - golden.T @ (golden @ A.T), ord=2))
    allowed = turn + 8.0 * held.unit * r**0.5
    return held.finding("A", "golden", module, Verdict("A", "row space", sine <= allowed, sine, allowed, (r,)))


def _matrices(held: Held, step: int) -> tuple[dict[str, Array], dict[str, Array], dict[str, float]] | None:
    """The candidate's A, B before `step` and scales, where it recorded them all."""
    c = held.candidate
    modules = c.modules("A")
    A, B, scale = {}, {}, {}
    for m in modules:
        before = f"train/{step - 1}/B/{m}"
        if not c.has(f"scale/{m}") or (step > 1 and not c.has(before)):
            return None
        A[m] = c.get(f"train/{step - 1}/A/{m}") if step > 1 and c.has(f"train/{step - 1}/A/{m}") else c.get(f"A/{m}")
        B[m] = c.get(before) if step > 1 else np.zeros((held.golden.shapes[m][0], len(A[m])))
        scale[m] = float(c.get(f"scale/{m}"))
    return (A, B, scale) if modules else None


def gradient_findings(held: Held) -> list[Finding]:
    """dL/dB of every step from the candidate's own A, B and batch (the model is needed); A stays as it was."""
    found: list[Finding] = _frozen(held)
    steps = held.candidate.numbered("train", "grad_B")
    if not steps:
        return [*found, held.skipped("gradient", None, "no grad_B recorded")]
    if held.replay is None:
        return [*found, held.skipped("gradient", None, "needs the weights: give --checkpoint")]
    for step in steps:
        matrices = _matrices(held, step)
        batch = held.candidate if held.candidate.has(f"train/{step}/input_ids") else held.golden
        if matrices is None or not batch.has(f"train/{step}/input_ids"):
            found.append(held.skipped("gradient", None, f"step {step}: A, B, scale or the batch is not recorded"))
            continue
        expected, loss = held.replay.step(batch, step, *matrices)
        tokens = int((batch.get(f"train/{step}/labels") != -100).sum())
        for m, right in expected.items():
            name = f"train/{step}/grad_B/{m}"
            if held.candidate.has(name):
                slips = gradient_slips(right, matrices[2][m], tokens, len(matrices[0][m]))
                allowed = held.network("grad_B", f"{step}/{m}", right)
                verdict = entries("gradient", f"step {step}", held.candidate.get(name), right, allowed, slips)
                found.append(held.own("gradient", m, verdict))
        if held.candidate.has("train/loss"):
            got, allowed = (
                held.candidate.get("train/loss")[step - 1],
                held.network("train_loss", str(step), np.array(loss)),
            )
            verdict = entries("gradient", f"training loss of step {step}", got, np.array(loss), allowed)
            found.append(held.own("gradient", None, verdict))
    return found


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
    """Every recorded update from the candidate's own gradient, moments and B before it; and the learning rates."""
    c, train = held.candidate, held.golden.manifest.train
    steps = c.numbered("train", "grad_B")
    if not steps or not train:
        return [held.skipped("adamw", None, "no training recorded")]
    found = [_rates(held)] if c.has("train/lr") and held.golden.has("train/lr") else []
    for step in steps:
        for m in c.modules(f"train/{step}/grad_B"):
            found += _update(held, step, m)
    return found


def _rates(held: Held) -> Finding:
    """The learning rate of each step, from the golden run's settings."""
    train, got = held.golden.manifest.train, held.candidate.get("train/lr")
    schedule = {"schedule": train["schedule"], "warmup_ratio": train["warmup_ratio"]}
    total = int(train["steps"])
    right = np.array([learning_rate(t, total, train["lr"], **schedule) for t in range(len(got))])
    return held.own("adamw", None, entries("adamw", "learning rates", got, right, 8.0 * held.unit * train["lr"]))


def _update(held: Held, step: int, m: str) -> list[Finding]:
    c, train = held.candidate, held.golden.manifest.train
    after = [f"train/{step}/{name}/{m}" for name in NAMES]
    before = [f"train/{step - 1}/{name}/{m}" for name in NAMES]
    if not c.has(after[0]) or (step > 1 and not all(map(c.has, before))):
        return [held.skipped("adamw", m, f"step {step}: B or the moments before it are not recorded")]
    grad = c.get(f"train/{step}/grad_B/{m}")
    B, exp_avg, exp_avg_sq = (c.get(name) if step > 1 else np.zeros_like(grad) for name in before)
    settings = {name: train[name] for name in ("eps", "weight_decay")} | {"betas": tuple(train["betas"])}
    lr = float(c.get("train/lr")[step - 1]) if c.has("train/lr") else float(held.golden.get("train/lr")[step - 1])
    if not all(map(c.has, after)):  # without moments: B alone
        after = [after[0]]
    got = [c.get(name) for name in after]
    judged = judge_adamw_step(
        (got[0], *(got[1:] or (np.zeros_like(grad),) * 2)),
        B=B, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, step=step, lr=lr,
        switches=held.switches, precision=held.precision, **settings,
    )  # fmt: skip
    return [held.own("adamw", m, v) for v in judged if len(got) == 3 or v.what == "B"]


def merge_findings(held: Held) -> list[Finding]:
    """W' from the candidate's own A, B and scale; W_0 from the model, or from the golden merge undone."""
    found = []
    for m in held.golden.modules("merged"):
        last = max(held.candidate.numbered("train", "B"), default=0)
        names = [f"merged/{m}", f"A/{m}", f"train/{last}/B/{m}", f"scale/{m}"]
        if not all(map(held.candidate.has, names)):
            found.append(held.skipped("merge", m, "the merged weight, A, B or the scale is not recorded"))
            continue
        W = _frozen_weight(held, m)
        if W is None:
            found.append(held.skipped("merge", m, "needs the weights: give --checkpoint"))
            continue
        got, A, B, scale = (held.candidate.get(name) for name in names)
        if held.candidate.has(f"train/{last}/A/{m}"):
            A = held.candidate.get(f"train/{last}/A/{m}")
        judged = judge_merge(
            got, W=W, A=A, B=B, scale=float(scale), switches=held.switches, precision=held.precision
        )  # fmt: skip
        found += [held.own("merge", m, verdict) for verdict in judged]
    return found


def _frozen_weight(held: Held, m: str) -> Array | None:
    if held.model is not None:
        return np.asarray(held.model.weight(m), np.float64)
    g, last = held.golden, max(held.golden.numbered("train", "B"), default=0)
    if not g.has(f"train/{last}/B/{m}"):
        return g.get(f"merged/{m}") if last == 0 else None  # B is zero: merged is W_0
    A = g.get(f"train/{last}/A/{m}") if g.has(f"train/{last}/A/{m}") else g.get(f"A/{m}")
    return g.get(f"merged/{m}") - float(g.get(f"scale/{m}")) * (g.get(f"train/{last}/B/{m}") @ A)
