"""Stage "gradient" (Eq. 2): dL/dB = s dL/dW' A^T of every step, dL/dA where a profile trains A, and a frozen A.

Judged by the model run again with the candidate's own A, B, scales and batch before the step (the weights are needed).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.adamw import clip_factor
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.causes import claim
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, OWN_INPUTS, Finding
from tlora_ref.oracle.stages.batches import Other, Passed, other_batches
from tlora_ref.oracle.stages.bounds import Slip, entries, malformed, stored, sum_error
from tlora_ref.oracle.stages.loss import mean_error
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.zeros import judge_zeros
from tlora_ref.oracle.traces.names import SAMPLE_FIELDS
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.traces.replay import Replay, batch_of
from tlora_ref.oracle.verdict import Verdict

#: A, B and the scale of every adapted module.
Matrices = tuple[dict[str, Array], dict[str, Array], dict[str, float]]

#: How far A may lie outside the rows of golden's A (Frobenius norm) for golden's gradient to tell of its own, and how
#: many times as large as inside dL/dW' may be there.
BEYOND, UNKNOWN_G = 0.1, 8.0

CLIPPED = "it is recorded after clipping, not before"


def findings(sides: Sides) -> list[Finding]:
    """The gradients of every step from the candidate's own A, B and batch (the model is needed); a frozen A stays."""
    found: list[Finding] = _frozen(sides)
    for step in sides.candidate.numbered("train", "labels"):
        found += _batch(sides, step)
    steps = sides.candidate.numbered("train", "grad_B")
    if not steps:
        return [*found, sides.skipped("gradient", None, "no grad_B recorded")]
    if sides.replay is None:
        why = "without the weights step 1 alone can be judged, where B is 0: give --checkpoint"
        return [*found, *_first_step(sides), sides.skipped("gradient", None, why)]
    first = True  # of the steps that are wrong: for the others' sake no more passes are made
    for step in steps:
        of_step = [replace(f, step=step) for f in _of_step(sides, sides.replay, step, why=first)]
        first = first and _right(of_step)
        found += of_step
    return found


def _first_step(sides: Sides) -> list[Finding]:
    """Step 1 without the weights: B is 0, so the loss is golden's, and dL/dB is golden's, turned as A is.

    If A = R A_golden, dL/dB = s dL/dW' A^T = (s / s_golden) dL/dB_golden R^T.
    """
    g, c, found = sides.golden, sides.candidate, []
    if _batch(sides, 1) or not g.has("train/1/labels"):
        return []  # made on other samples
    tokens = int((g.get("train/1/labels") != -100).sum())
    known = {("B", m): g.get(f"train/1/grad_B/{m}") for m in g.modules("train/1/grad_B")}
    clip = _clip(sides, known)
    for m in g.modules("train/1/grad_B"):
        names = f"train/1/grad_B/{m}", f"A/{m}", f"scale/{m}"
        if not all(map(sides.both, names)) or not float(g.get(names[2])):
            continue
        A, A_golden, scale = c.get(names[1]), g.get(names[1]), float(c.get(names[2]))
        R, golden = A @ A_golden.T, g.get(names[0]) / float(g.get(names[2]))  # (r, r_golden); without its scale
        beyond = float(np.linalg.norm(A - R @ A_golden))
        if beyond > BEYOND:
            why = "A is another than golden's: without the weights nothing is known of its gradient"
            found.append(sides.skipped("gradient", m, why))
            continue
        right = scale * golden @ R.T
        # of dL/dW' on directions outside golden's A nothing is known but that it is hardly larger there
        more = UNKNOWN_G * beyond * abs(scale) * float(np.linalg.norm(golden, axis=1).max(initial=0.0))
        got, what = c.get(names[0]), "dL/dB of step 1"
        slips = _slips_of(sides, right, scale, tokens, len(A))
        slips.append((CLIPPED, lambda right=right: right * clip))  # type: ignore[misc]
        every = itertools.chain(slips, sides.of_another("train/1/grad_B", m, got))  # the others are read if it fails
        verdict = sides.network.array("gradient", what, "grad_B", f"1/{m}", got, right, every, more)
        found.append(replace(sides.finding("gradient", GOLDEN, m, verdict), step=1))
    if found and _right(found):
        found += [replace(f, against=GOLDEN, step=1) for f in _zeros(sides, 1, known)]
    if sides.both("train/loss"):
        found += _training_loss(sides, 1, g.get("train/loss")[0], GOLDEN)
    return found


def _of_step(sides: Sides, replay: Replay, step: int, *, why: bool) -> list[Finding]:
    """The gradients of every trained matrix, and the loss, of one step; `why`: if wrong, another batch may tell why."""
    matrices = _matrices(sides, step)
    fields = [f"train/{step}/{name}" for name in SAMPLE_FIELDS if sides.golden.has(f"train/{step}/{name}")]
    batch = batch_of(sides.candidate if all(map(sides.candidate.has, fields)) else sides.golden, step)
    if matrices is None or not {"input_ids", "labels"} <= set(batch):
        return [sides.skipped("gradient", None, f"step {step}: A, B, scale or the batch is not recorded")]
    passed = replay.step(batch, *matrices, letters=sides.letters)
    tokens = int((batch["labels"] != -100).sum())
    found = _held(sides, step, passed, matrices, tokens)
    if _right(found):
        return found + _zeros(sides, step, passed[0])
    # The golden run's noise is that of the golden A and B. Where the candidate's are others (a wrong update made them
    # large, say) it may be right at its own, where the network costs more.
    noise = replay.noise(batch, step, *matrices, *passed)
    if noise is None:
        return [sides.skipped("gradient", None, f"step {step}: float32 overflows at the candidate's own A and B")]
    again = _held(sides.with_noise(noise), step, passed, matrices, tokens)
    found = [
        other if other.verdict is not None and other.verdict.passed else first
        for first, other in zip(found, again, strict=True)
    ]
    if _right(found):
        return found + _zeros(sides, step, passed[0])
    if not why or claim([f.verdict.explained_by for f in found if f.verdict is not None and not f.verdict.passed]):
        return found
    causal = replay.model.task_type == "CAUSAL_LM"
    run = partial(replay.step, A=matrices[0], B=matrices[1], scale=matrices[2], letters=sides.letters)
    others = other_batches(batch, step, sides.golden, run, causal=causal)
    told = _held(sides, step, passed, matrices, tokens, others)
    return [first if _right([first]) else other for first, other in zip(found, told, strict=True)]


def _right(found: list[Finding]) -> bool:
    return all(f.verdict is None or f.verdict.passed for f in found)


def _held(
    sides: Sides, step: int, passed: Passed, matrices: Matrices, tokens: int, others: Sequence[Other] = ()
) -> list[Finding]:
    """The candidate's gradients and loss of a step against what they should be; `others` may explain what they are."""
    (A, _, scale), (expected, loss), found = matrices, passed, list[Finding]()
    clip = _clip(sides, expected)
    for (letter, m), right in expected.items():
        name, what = f"train/{step}/grad_{letter}/{m}", f"dL/d{letter} of step {step}"
        if not sides.candidate.has(name):
            found.append(sides.skipped("gradient", m, f"{what} is not recorded"))
            continue
        slips = _slips_of(sides, right, scale[m], tokens, len(A[m]))
        slips.append((CLIPPED, lambda g=right, f=clip: g * f))  # type: ignore[misc]
        if sides.candidate.has(earlier := f"train/{step - 1}/grad_{letter}/{m}"):
            added = partial(_added, sides.candidate, earlier, right)
            slips.append(("gradients are not set to zero between the steps", added))
        slips += [(text, lambda give=give, key=(letter, m): give()[0][key]) for text, give in others]  # type: ignore[misc]
        keys, got = (f"grad_{letter}", f"{step}/{m}"), sides.candidate.get(name)
        every = itertools.chain(slips, sides.of_another(f"train/{step}/grad_{letter}", m, got))
        verdict = sides.network.array("gradient", what, *keys, got, right, every)
        found.append(sides.own("gradient", m, verdict))
    losses: list[Slip] = [(text, lambda give=give: give()[1]) for text, give in others]  # type: ignore[misc]
    return found + _training_loss(sides, step, np.array(loss), slips=losses)


def _zeros(sides: Sides, step: int, expected: Mapping[tuple[str, str], Array]) -> list[Finding]:
    """Zeros in all gradients of a step, in a low precision."""
    c, names = sides.candidate, {key: f"train/{step}/grad_{'/'.join(key)}" for key in expected}
    pairs = ((c.get(name), expected[key]) for key, name in names.items() if c.has(name))
    verdict = judge_zeros(sides.network, "gradient", f"the gradients of step {step}", pairs)
    return [] if verdict is None else [sides.own("gradient", None, verdict)]


def _clip(sides: Sides, gradients: Mapping[tuple[str, str], Array]) -> float:
    """What clipping multiplies these gradients of a step with."""
    most = sides.train.get("max_grad_norm") or math.inf
    return clip_factor(math.sqrt(sum(float((g**2).sum()) for g in gradients.values())), most)


def _slips_of(sides: Sides, right: Array, scale: float, tokens: int, r: int) -> list[Slip]:
    """What the gradient of a module would be after each known slip, that with the run's alpha / r_init too."""
    facts = sides.golden.manifest
    plain = facts.alpha / facts.r_init / scale if scale else 1.0
    said = "the scale is plain LoRA's alpha / r_init"
    return [*gradient_slips(right, scale, tokens, r), (said, lambda: right * plain)]


def _added(trace: Trace, earlier: str, right: Array) -> Array:
    return right + trace.get(earlier)


def _matrices(sides: Sides, step: int) -> Matrices | None:
    """The candidate's A and B before `step` and its scales, where it recorded them all."""
    c, modules = sides.candidate, sides.adapted
    A, B, scale = {}, {}, {}
    for m in modules:
        before, own_A = f"train/{step - 1}/B/{m}", sides.A_before(step, m)
        if own_A is None or not c.has(f"scale/{m}") or (step > 1 and not c.has(before)):
            return None
        A[m], scale[m] = own_A, float(c.get(f"scale/{m}"))
        B[m] = c.get(before) if step > 1 else np.zeros((sides.golden.shapes[m][0], len(own_A)))
    return (A, B, scale) if modules else None


def _batch(sides: Sides, step: int) -> list[Finding]:
    """Says where a step is made on other samples than the golden one, by the scored labels of its rows."""
    name = f"train/{step}/labels"

    def rows(trace: Trace) -> list[list[int]]:
        labels = trace.get(name)
        return sorted(row[row != -100].tolist() for row in labels.reshape(len(labels), -1))

    if not sides.both(name) or rows(sides.candidate) == rows(sides.golden):
        return []
    why = f"step {step}: made on other samples than the golden run's, and judged on those"
    return [sides.noted("gradient", why)]


def _training_loss(
    sides: Sides, step: int, loss: Array, against: str = OWN_INPUTS, slips: Sequence[Slip] = ()
) -> list[Finding]:
    if not sides.candidate.has("train/loss"):
        return []
    got = sides.candidate.get("train/loss")[step - 1]
    allowed = sides.network("train_loss", str(step), loss, got) + mean_error(sides, f"train/{step}/labels", loss)
    verdict = entries("gradient", f"training loss of step {step}", got, loss, allowed, slips)
    return [sides.finding("gradient", against, None, verdict)]


def _frozen(sides: Sides) -> list[Finding]:
    """Where A is frozen and the candidate recorded it during training, it never moved; where it is trained, it did."""
    found, c = [], sides.candidate
    steps = c.numbered("train", "A")
    for step in steps if sides.switches.freeze_A else steps[-1:]:
        for m in (m for m in c.modules(f"train/{step}/A") if c.has(f"A/{m}")):
            now, then = c.get(f"train/{step}/A/{m}"), c.get(f"A/{m}")
            if sides.switches.freeze_A:
                verdict = entries("gradient", f"A is frozen (step {step})", now, then, np.zeros_like(then))
                cause = "A was trained: TLoRA freezes it"
                found.append(sides.own("gradient", m, verdict if verdict.passed else replace(verdict, cause=cause)))
            elif (now == then).all() and _moves(sides, step, m):
                cause = f"A was frozen up to step {step}: this run trains it"
                found.append(sides.own("gradient", m, malformed("gradient", "A is trained", cause)))
    return found


def _moves(sides: Sides, step: int, m: str) -> bool:
    """Whether the golden A moves so far that in some step the candidate's storage must have shown it."""
    names = f"A/{m}", f"train/{step}/A/{m}"
    if not all(map(sides.golden.has, names)):
        return False
    first, last = map(sides.golden.get, names)
    return bool((np.abs(last - first) > step * sides.precision.storage * np.abs(first)).any())


def judge_grad_b(
    got: object, *, x: Array, dy: Array, A: Array, B: Array, scale: float, switches: Switches, precision: Precision
) -> list[Verdict]:
    """Eq. 2: dL/dB = s dy^T (x A^T)."""
    x, dy, A = (np.asarray(m, np.float64) for m in (x, dy, A))
    expected = low_rank.gradient_B(dy.T @ x, A, scale)  # (d_out, r)
    magnitude = abs(scale) * np.abs(dy).T @ (np.abs(x) @ np.abs(A).T)
    kept = 3.0 * precision.storage * abs(scale) * np.abs(dy).T @ np.abs(x @ A.T)
    # the other order, (dy^T x) A^T, stores the (d_out, d_in) product
    kept += precision.storage * abs(scale) * np.abs(dy.T @ x) @ np.abs(A).T
    allowed = sum_error(2.0 * magnitude, max(x.shape), precision) + stored(expected, precision) + kept
    return [entries("grad_b", "entries", got, expected, allowed, gradient_slips(expected, scale, len(x), len(A)))]


def gradient_slips(expected: Array, scale: float, tokens: int, r: int) -> list[Slip]:
    """What dL/dB would be after each known slip, from the right one."""
    return [
        ("the scale is left out (Eq. 2 as printed)", lambda: expected / scale if scale else expected),
        ("the scale is applied twice", lambda: expected * scale),
        ("the scale is not divided by the rank: alpha instead of alpha / r", lambda: expected * r),
        ("the scale is divided by the rank twice", lambda: expected / r),
        ("the gradient is divided by the number of tokens", lambda: expected / tokens),
        ("the gradient is multiplied by the number of tokens", lambda: expected * tokens),
        ("the sign is flipped", lambda: -expected),
        ("the gradient is zero", lambda: np.zeros_like(expected)),
        ("the gradient is doubled", lambda: 2.0 * expected),
        ("the gradient is halved", lambda: 0.5 * expected),
    ]
