"""The learning rate of each step of a short run, from all entries of the last B together.

B is a sum of the steps' updates, and of their rounding, which is another in every entry. By least squares all entries
tell how much of each update is in it, far more exactly than any bound on one entry could.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import OWN
from tlora_ref.oracle.stages.directions import DEVIATIONS
from tlora_ref.oracle.stages.network import UNIT32
from tlora_ref.oracle.verdict import Verdict

#: So many entries more than steps there must be for what is left of the fit to tell its error.
ENTRIES = 30
#: Updates that are so nearly combinations of each other are not told apart.
CONDITION = 1e4


def judge_rates(
    got: Array, updates: Sequence[Array], errors: Array, betas: tuple[float, float], precision: Precision
) -> Verdict | None:
    """How often each step's update is in B, against once, in float32; the worst step.

    got, errors : B (d_out, r), and how far each entry may be off
    updates : of each step, as it is left after the decay of the later ones; their sum is B; zero where lr is
    None where the precision is another, or entries are too few or updates too much alike to tell.
    """
    steps = [t for t, update in enumerate(updates) if update.any()]
    known = errors > 0.0  # where it is 0 nothing is added to anything
    many = int(known.sum()) - len(steps)
    if not OWN < precision.accumulation <= precision.storage <= UNIT32 or many < ENTRIES or not steps:
        return None
    columns = np.stack([updates[t][known] / errors[known] for t in steps], axis=1)  # (entries, steps)
    sizes = np.linalg.norm(columns, axis=0)
    if not np.isfinite(sizes).all() or not sizes.all() or np.linalg.cond(columns / sizes) > CONDITION:
        return None
    off = (got - sum(updates, start=np.zeros_like(got)))[known] / errors[known]
    found, *_ = np.linalg.lstsq(columns / sizes, off, rcond=None)
    left = off - columns / sizes @ found
    spread = float(left @ left) / many
    inverse = np.linalg.inv((columns / sizes).T @ (columns / sizes))
    allowed = DEVIATIONS * np.sqrt(spread * np.diag(inverse)) / sizes + [_scalars(t + 1, betas) for t in steps]
    shares = found / sizes
    worst = int(np.argmax(np.abs(shares) / allowed))
    error, most = float(abs(shares[worst])), float(allowed[worst])
    what, seen = "how often each update is made", float(allowed.min())
    verdict = Verdict(
        "train", what, error <= most, error, most, (steps[worst],), 1.0 + shares[worst], 1.0, detects=seen
    )
    best = float(shares[int(np.argmin(allowed))])
    if verdict.passed or (np.abs(shares - best) > allowed).any():
        return verdict
    return verdict.blamed([(f"the learning rate is {1.0 + best:.6g} times what it should be", 0.0)])


def _scalars(step: int, betas: tuple[float, float]) -> float:
    """What a step's update may be off by as a whole, relatively: numbers formed in float32 where others form them so.

    1 - beta loses digits if beta is rounded first, 1 - beta^t if the power is (of the first step it is beta itself).
    """
    off = 0.0
    for beta, weight in zip(betas, (1.0, 0.5), strict=True):  # the update goes by the root of exp_avg_sq
        rounded = abs(float(np.float32(beta)) - beta) / (1.0 - beta)
        power = UNIT32 / 2.0 / (1.0 - beta**step) if step > 1 else 0.0
        off += weight * (rounded + power)
    return off + 8.0 * UNIT32
