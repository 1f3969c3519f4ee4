"""The spectrum of W C, and how an A is held against the spaces that its sharp gaps bound.

If M = W C is off by E, the space of its first p right singular vectors turns by at most ||E|| / (sigma_p - sigma_(p+1))
(Wedin 1972). So A of r rows must hold V_1..p for the cuts p <= r that are sharp enough, and lie in V_1..q for q >= r:
when the cut at r splits a cluster of singular values, the cluster is judged as a whole.

And at every sharp cut p each single row is one of V_1..p or one of the rest: it lies in the one space or in the other.
A row between two neighbouring sharp cuts is determined up to its sign; rows between cuts further apart are free inside
the cluster that these bound. AdamW is not invariant to a rotation of B's columns: rows that are rotated among one
another train another update, though their row space is right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.bounds import OWN, SAFETY
from tlora_ref.oracle.verdict import Verdict

ROTATED = "the rows of A are rotated inside their row space: AdamW then trains another update"
#: A cut whose space may turn by more than this says nothing.
BLUNT = 0.25


@dataclass(frozen=True)
class Spectrum:
    """W C with its SVD, and the size of the error E in it.

    Attributes
    ----------
    M : (d_out, d_in), W C
    sigma : (d_in,), padded with zeros
    Vt : (d_in, d_in), or as many of its first rows as are known
    error : the spectral norm of E
    U : (d_out, min(d_out, d_in)), where it is known
    """

    M: Array
    sigma: Array
    Vt: Array
    error: float
    U: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def sines(self) -> Array:
        """How far span(V_1..p) may turn, for p = 0 .. d_in (1: anywhere)."""
        gaps = self.sigma[:-1] - self.sigma[1:]
        told = gaps > 4.0 * self.error
        inner = np.where(told, 2.0 * self.error / np.where(told, gaps, 1.0), 1.0)
        return np.concatenate([[0.0], inner, [0.0]])

    def sharp(self) -> list[int]:
        """The cuts p, 0 and d_in among them, that say something of V_1..p, where these are known."""
        return [int(p) for p in np.flatnonzero(self.sines() < BLUNT) if p <= len(self.Vt)]


def svd_unit(switches: Switches) -> float:
    """The rounding of a decomposition that the profile itself makes in float32; 0 where it asks for float64."""
    return 2.0**-23 if switches.svd_dtype == "float32" else 0.0


def spectrum(W: Array, C: Array, switches: Switches, precision: Precision, *, whole: bool = False) -> Spectrum:
    """W C in float64, and how far a candidate of this precision may be from it (spectral norm).

    whole : with V of what W C does not see, where d_out < d_in
    """
    M, (d_out, d_in) = W @ C, W.shape
    U, sigma, Vt = np.linalg.svd(M, full_matrices=whole and d_out < d_in)
    error = product_error(W, C, M, float(sigma[0]) if len(sigma) else 0.0, switches, precision)
    return Spectrum(M, np.concatenate([sigma, np.zeros(d_in - len(sigma))]), Vt, error, U)


def product_error(W: Array, C: Array, M: Array, top: float, switches: Switches, precision: Precision) -> float:
    """How far another M = W C may be off (spectral norm), whose largest singular value is `top`."""
    d_in = W.shape[1]
    stored = max(precision.storage, svd_unit(switches))
    unit = max(precision.accumulation + OWN, svd_unit(switches))
    magnitude = float(np.linalg.norm(np.abs(W) @ np.abs(C)))
    product = SAFETY * (math.sqrt(d_in) + 1.0) * unit / math.sqrt(min(M.shape)) + 2.0 * precision.product
    decomposition = SAFETY * math.sqrt(max(M.shape)) * unit * top
    return product * magnitude + stored * float(np.linalg.norm(M)) + decomposition + precision.tiny * d_in


def row_space(stage: str, A: Array, found: Spectrum, rounding: float) -> Verdict:
    """The largest sine between A's row space and the sharp spaces around it, against what each may turn."""
    r, sines = len(A), found.sines()
    inner = [p for p in found.sharp() if 0 < p <= r]
    outer = [q for q in found.sharp() if r <= q < len(found.sigma)]
    worst = Verdict(stage, "row space", True, 0.0, 1.0)
    of_size_one = A.T / (float(np.abs(A).max(initial=0.0)) or 1.0)  # squares would overflow, were A wrong without bound
    Q = np.linalg.qr(of_size_one)[0]  # (d_in, r), orthonormal also where A's rows are not quite
    tests = [(p, found.Vt[:p].T, Q) for p in _telling(inner, sines)]
    tests += [(q, Q, found.Vt[:q].T) for q in _telling(outer, sines)]
    for cut, inside, around in tests:
        sine = float(np.linalg.norm(inside - around @ (around.T @ inside), ord=2))
        allowed = float(sines[cut]) + rounding
        if sine / allowed > worst.error / worst.allowed:
            worst = Verdict(stage, "row space", sine <= allowed, sine, allowed, (cut,))
    return replace(worst, detects=min((float(sines[cut]) + rounding for cut, *_ in tests), default=None))


def _telling(cuts: list[int], sines: Array) -> list[int]:
    """The cuts nearest to r on this side, and the sharpest: the others follow from them."""
    return sorted({min(cuts), max(cuts), min(cuts, key=lambda p: sines[p])}) if cuts else []


def rows(stage: str, A: Array, found: Spectrum, rounding: float) -> Verdict:
    """The row of A that lies least in one of the two sides of a sharp cut: its sine to the nearer of them.

    `rounding` : how far storing may turn one row. The note says which rows are free, counted from 0.
    """
    cuts = [p for p in found.sharp() if 0 < p < len(found.sigma)]
    lengths = np.linalg.norm(A, axis=1, keepdims=True)
    unit = A / np.where(lengths > 0.0, lengths, 1.0)
    parts = unit @ found.Vt.T  # (r, known): what each row has of each singular vector
    rest = np.linalg.norm(unit - parts @ found.Vt, axis=1, keepdims=True)  # and of those that are not known
    below = np.sqrt(np.cumsum(parts**2, axis=1))  # (r, known): of V_1..p, at p - 1
    beyond = np.cumsum(np.concatenate([rest, parts[:, ::-1]], axis=1) ** 2, axis=1)[:, ::-1]
    above = np.sqrt(beyond[:, 1:])  # (r, known): of all but V_1..p
    at = np.array(cuts, int) - 1
    below, above = below[:, at], above[:, at]  # (r, cuts)
    free = _in_clusters(above <= below, cuts, len(found.sigma))
    note = f"free inside a cluster of singular values, its span judged: rows {free} of A" if free else ""
    if not cuts:
        return Verdict(stage, "rows", True, 0.0, 1.0, note=note)
    sine, allowed = np.minimum(below, above), found.sines()[cuts] + rounding
    row, cut = (int(i) for i in np.unravel_index(int(np.argmax(sine / allowed)), sine.shape))
    error, bound = float(sine[row, cut]), float(allowed[cut])
    return Verdict(stage, "rows", error <= bound, error, bound, (row,), note=note, detects=float(allowed.min()))


def _in_clusters(inside: Array, cuts: list[int], d_in: int) -> list[int]:
    """The rows that no two neighbouring cuts bound; inside (r, cuts): whether a row is one of V_1..p."""
    every = [0, *cuts, d_in]
    beyond = (~inside).sum(axis=1)  # how many cuts a row lies beyond
    return [i for i, k in enumerate(beyond) if every[k + 1] - every[k] > 1]
