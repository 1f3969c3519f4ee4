"""The spectrum of W C, and how an A of any basis is held against the spaces that its sharp gaps bound.

If M = W C is off by E, the space of its first p right singular vectors turns by at most ||E|| / (sigma_p - sigma_(p+1))
(Wedin 1972). So A of r rows must hold V_1..p for the cuts p <= r that are sharp enough, and lie in V_1..q for q >= r:
when the cut at r splits a cluster of singular values, the cluster is judged as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import OWN, SAFETY
from tlora_ref.oracle.verdict import Verdict

#: A cut whose space may turn by more than this says nothing.
BLUNT = 0.25


@dataclass(frozen=True)
class Spectrum:
    """W C with its SVD: sigma padded with zeros to d_in, Vt (d_in, d_in), and the size of the error E in it."""

    M: Array
    sigma: Array
    Vt: Array
    error: float

    def sharp_sine(self, cut: int) -> float:
        """How far span(V_1..cut) may turn (1: anywhere)."""
        if cut in (0, len(self.sigma)):
            return 0.0
        gap = float(self.sigma[cut - 1] - self.sigma[cut])
        return 1.0 if gap <= 4.0 * self.error else 2.0 * self.error / gap


def svd_unit(switches: Switches) -> float:
    """The rounding of a decomposition that the profile itself makes in float32; 0 where it asks for float64."""
    return 2.0**-23 if switches.svd_dtype == "float32" else 0.0


def spectrum(W: Array, C: Array, switches: Switches, precision: Precision) -> Spectrum:
    """W C in float64, and how far a candidate of this precision may be from it (spectral norm)."""
    M, d_in = W @ C, W.shape[1]
    stored = max(precision.storage, svd_unit(switches))
    unit = max(precision.accumulation + OWN, svd_unit(switches))
    magnitude = float(np.linalg.norm(np.abs(W) @ np.abs(C)))
    _, sigma, Vt = np.linalg.svd(M, full_matrices=True)
    top = float(sigma[0]) if len(sigma) else 0.0
    product = SAFETY * (math.sqrt(d_in) + 1.0) * unit / math.sqrt(min(M.shape)) + 2.0 * precision.product
    decomposition = SAFETY * math.sqrt(max(M.shape)) * unit * top
    error = product * magnitude + stored * float(np.linalg.norm(M)) + decomposition + precision.tiny * d_in
    return Spectrum(M, np.concatenate([sigma, np.zeros(d_in - len(sigma))]), Vt, error)


def row_space(stage: str, A: Array, found: Spectrum, rounding: float) -> Verdict:
    """The largest sine between A's row space and the sharp spaces around it, against what each may turn."""
    r = len(A)
    cuts = range(len(found.sigma) + 1)
    inner = [p for p in cuts if 0 < p <= r and found.sharp_sine(p) < BLUNT]
    outer = [q for q in cuts if r <= q < len(found.sigma) and found.sharp_sine(q) < BLUNT]
    worst = Verdict(stage, "row space", True, 0.0, 1.0)
    Q = np.linalg.qr(A.T)[0]  # (d_in, r), orthonormal also where A's rows are not quite
    tests = [(p, found.Vt[:p].T, Q) for p in _telling(inner, found)]
    tests += [(q, Q, found.Vt[:q].T) for q in _telling(outer, found)]
    for cut, inside, around in tests:
        sine = float(np.linalg.norm(inside - around @ (around.T @ inside), ord=2))
        allowed = found.sharp_sine(cut) + rounding
        if sine / allowed > worst.error / worst.allowed:
            worst = Verdict(stage, "row space", sine <= allowed, sine, allowed, (cut,))
    return worst


def _telling(cuts: list[int], found: Spectrum) -> list[int]:
    """The cuts nearest to r on this side, and the sharpest: the others follow from them."""
    if not cuts:
        return []
    return sorted({min(cuts), max(cuts), min(cuts, key=found.sharp_sine)})
