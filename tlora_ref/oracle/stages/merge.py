"""Stage "merge" (Eq. 1): W' = W + s B A after the last step.

Judged by the candidate's own A, B and scale; W is the model's, or the golden merge undone. Where the merged weight is
all there is, by golden's A, B and scale, with the noise of the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method import low_rank
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import Slip, entries, rms, stored, sum_error
from tlora_ref.oracle.stages.directions import DEVIATIONS
from tlora_ref.oracle.stages.network import UNIT32
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.whole_run import Trained, held, trained
from tlora_ref.oracle.verdict import Verdict


def findings(sides: Sides) -> list[Finding]:
    """W' from the candidate's own A, B and scale, or, where it lacks one, by golden's; W_0 from the model or golden."""
    found, c = [], sides.candidate
    last = max([*c.numbered("train", "B"), int(sides.train.get("steps") or 0)])
    right, merged = _Golden(sides), list[tuple[Array, Array, Array]]()
    for m in dict.fromkeys([*sides.golden.modules("merged"), *c.modules("merged")]):
        A = sides.A_before(last + 1, m)
        names = [f"merged/{m}", f"scale/{m}", *([f"train/{last}/B/{m}"] if last else [])]
        if not c.has(names[0]):
            found.append(sides.skipped("merge", m, "the merged weight is not recorded"))
            continue
        if A is None or not all(map(c.has, names)):
            found.append(_of_fewer_steps(sides, m, right.judged(m)))
            continue
        W = _frozen_weight(sides, m)
        if W is None:
            found.append(sides.skipped("merge", m, "needs the weights: give --checkpoint"))
            continue
        got, scale = c.get(names[0]), float(c.get(names[1]))
        B = c.get(names[2]) if last else np.zeros((len(W), len(A)))
        rules: dict[str, Any] = {"switches": sides.switches, "precision": sides.precision}
        judged = judge_merge(got, W=W, A=A, B=B, scale=scale, others=_others(sides, m, W, A, B, last), **rules)
        found += [sides.own("merge", m, verdict) for verdict in judged]
        merged.append((got, W, scale * B @ A))
    together = judge_share(merged, sides.precision)
    if together is not None and all(f.verdict is None or f.verdict.passed for f in found):
        found.append(sides.own("merge", None, together))
    return found


def _others(sides: Sides, m: str, W: Array, A: Array, B: Array, last: int) -> list[Slip]:
    """What a merged weight would be by the run's alpha / r_init, or by B of the step before, where it is recorded."""
    plain, name = sides.golden.manifest.alpha / sides.golden.manifest.r_init, f"train/{last - 1}/B/{m}"
    slips: list[Slip] = [("the scale is plain LoRA's alpha / r_init", lambda: W + plain * B @ A)]
    if sides.candidate.has(name):
        scale = float(sides.candidate.get(f"scale/{m}"))
        slips.append(("it is merged a step early", lambda: W + scale * sides.candidate.get(name) @ A))
    return slips


def _of_fewer_steps(sides: Sides, m: str, by_golden: Finding) -> Finding:
    """The finding by golden's last B; where that is wrong and the candidate's own last B fits, this is the cause."""
    c, verdict = sides.candidate, by_golden.verdict
    last = max(c.numbered("train", "B"), default=0)
    A, names = sides.A_before(last + 1, m), (f"scale/{m}", f"train/{last}/B/{m}")
    if verdict is None or verdict.passed or A is None or not all(map(c.has, names)):
        return by_golden
    scale, B = map(c.get, names)
    own: dict[str, Any] = {"W": _frozen_weight(sides, m), "A": A, "scale": float(scale)}
    own |= {"switches": sides.switches, "precision": sides.precision}

    def fits(B: Array) -> bool:
        return all(v.passed for v in judge_merge(c.get(f"merged/{m}"), B=B, **own))

    if not fits(B) or fits(np.zeros_like(B)):
        return by_golden
    cause = f"its run made fewer steps than golden's {_steps(sides)}: it is merged with its own last B, of step {last}"
    return replace(by_golden, verdict=verdict.blamed([(cause, 0.0)]))


def judge_share(merged: Sequence[tuple[Array, Array, Array]], precision: Precision) -> Verdict | None:
    """How much of all updates together is in the merged weights: 1, and in a low precision more surely than any entry.

    merged : of every module W', W and s B A. What is left of W' beyond its own rounding is, entry by entry, as likely
    along the update as against it, so that the sum of its products with the update is a walk of random signs: beyond
    DEVIATIONS of these nothing but another share is left. A scale that is rounded to the storage is one, too.
    None in a higher precision, or where there is no update.
    """
    size = sum(float((update**2).sum()) for *_, update in merged)
    if precision.storage <= UNIT32 or not size:
        return None
    walk, steps = 0.0, 0.0
    for got, W, update in merged:
        right = precision.rounded(W) + update
        if np.array_equal(precision.rounded(got), got):
            right = precision.rounded(right)
        products = update * (got - right)
        walk, steps = walk + float(products.sum()), steps + float((products**2).sum())
    allowed = precision.storage / 2.0 + DEVIATIONS * math.sqrt(steps) / size
    error = abs(walk) / size
    what = "share of the update that is merged, all modules together"
    got_share = 1.0 + walk / size
    return Verdict("merge", what, error <= allowed, error, allowed, None, got_share, 1.0, detects=allowed)


class _Golden:
    """Merged weights alone: by golden's W, A and B, with the noise of the whole run."""

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    @cached_property
    def trained(self) -> dict[str, Trained] | str:
        return trained(self.sides, _steps(self.sides))

    def judged(self, m: str) -> Finding:
        """Of the module's merged weight; skipped where golden tells nothing of it, or rounding hides the update."""
        sides, W, got = self.sides, _frozen_weight(self.sides, m), self.sides.candidate.get(f"merged/{m}")
        why = "A, B or the scale is not recorded: "
        if _steps(sides) == 0 or isinstance(self.trained, str):
            reason = self.trained if isinstance(self.trained, str) else "the golden run has no training"
            return sides.skipped("merge", m, why + reason)
        if W is None:
            return sides.skipped("merge", m, why + "needs the weights: give --checkpoint")
        if m not in self.trained:  # of rank 0
            if sides.candidate.has(f"rank/{m}") and sides.candidate.get(f"rank/{m}") != 0:
                return sides.skipped("merge", m, f"{why}its rank is another than golden's")
            return sides.against_golden("merge", m, "entries", got, W, stored(W, sides.precision), [])
        verdict, unseen = judge_merge_by_golden(sides, got, W, self.trained[m])
        if verdict.passed and unseen:
            seen = "" if verdict.detects is None else f": {verdict.detects:.2g} of the weight"  # None where that is 0
            reason = f"the noise of the whole run is as large as the update{seen}"
            return sides.skipped("merge", m, why + reason)
        return sides.finding("merge", GOLDEN, m, verdict)


def judge_merge_by_golden(sides: Sides, got: Array, W: Array, right: Trained) -> tuple[Verdict, bool]:
    """W' by golden's own; and whether W without an update would have passed too."""
    rows, p = right.rows, sides.precision
    A, B, scale = rows.A, right.B, rows.scale
    expected, rounding, slips = _expected(W, A, B, scale, p)
    # (B + dB) (A + dA) - B A
    turned = np.abs(B) @ np.broadcast_to(rows.error, A.shape)
    allowed = rounding + abs(scale) * (right.error @ (np.abs(A) + rows.error) + turned)
    # the errors of B's columns are independent enough to add in squares
    usual = rms(rounding) + abs(scale) * (rms(np.sqrt(right.usual**2 @ A**2)) + rms(turned))
    before = right.before
    slips = [*slips, ("it is merged a step early", lambda: W + scale * before @ A)]

    def judged(x: Array) -> Verdict:
        return held(sides, "merge", "entries", x, expected, allowed, usual, slips)

    return judged(got), judged(W).passed


def _frozen_weight(sides: Sides, m: str) -> Array | None:
    if (W := sides.weight(m)) is not None:
        return W
    g, last = sides.golden, _steps(sides)
    if last == 0:
        return g.get(f"merged/{m}") if g.has(f"merged/{m}") else None  # B is zero: merged is W_0
    A, B, scale = f"A/{m}" if sides.switches.freeze_A else f"train/{last}/A/{m}", f"train/{last}/B/{m}", f"scale/{m}"
    if not all(map(g.has, (A, B, scale))):
        return None
    return g.get(f"merged/{m}") - float(g.get(scale)) * (g.get(B) @ g.get(A))


def _steps(sides: Sides) -> int:
    """How many steps the golden run trained for."""
    return int(sides.golden.manifest.train.get("steps") or 0)


def judge_merge(
    got: object,
    *,
    W: Array,
    A: Array,
    B: Array,
    scale: float,
    switches: Switches,
    precision: Precision,
    others: Sequence[Slip] = (),
) -> list[Verdict]:
    """Eq. 1, merged: W' = W + s B A; `others` are further slips."""
    W, A, B = (np.asarray(m, np.float64) for m in (W, A, B))
    expected, allowed, slips = _expected(W, A, B, scale, precision)
    return [entries("merge", "entries", got, expected, allowed, [*slips, *others])]


def _expected(W: Array, A: Array, B: Array, scale: float, precision: Precision) -> tuple[Array, Array, list[Slip]]:
    """W', how far rounding may carry it, and what it would be after each known slip."""
    expected = low_rank.merged_weight(W, A, B, scale)
    delta = expected - W
    magnitude = abs(scale) * np.abs(B) @ np.abs(A)
    allowed = sum_error(magnitude, len(A), precision) + stored(expected, precision)
    # s B (or s A) may be stored before the product
    allowed = allowed + stored(W, precision) + 2.0 * stored(delta, precision) + precision.storage * magnitude
    slips: list[Slip] = [
        ("the scale alpha / r is left out", lambda: W + (delta / scale if scale else delta)),
        ("the scale is applied twice", lambda: W + delta * scale),
        ("the scale is not divided by the rank: alpha instead of alpha / r", lambda: W + delta * len(A)),
        ("the scale is divided by the rank twice", lambda: W + delta / len(A)),
        ("the scale is divided by the root of the rank (rsLoRA)", lambda: W + delta * math.sqrt(len(A))),
        ("the adapter is not merged", lambda: W),
        ("the update is subtracted", lambda: W - delta),
        ("the update is merged twice", lambda: W + 2.0 * delta),
        ("the frozen weight is left out", lambda: delta),
        ("the last row of A, with B's column, is left out", lambda: expected - scale * B[:, -1:] @ A[-1:]),
        ("the scale multiplies the whole weight", lambda: (W + (delta / scale if scale else delta)) * scale),
    ]
    if W.shape[0] == W.shape[1]:
        slips += [
            ("the whole weight is transposed", lambda: expected.T),
            ("the update is transposed", lambda: W + delta.T),
        ]
    return expected, allowed, slips
