"""The judge of A (Eq. 4): by its row space, with the bound that the spectrum of W C gives.

If M = W C is off by E, the space of its first p right singular vectors turns by at most ||E|| / (sigma_p - sigma_(p+1))
(Wedin 1972). So A of r rows must hold V_1..p for the cuts p <= r that are sharp enough, and lie in V_1..q for q >= r:
when the cut at r splits a cluster of singular values, the cluster is judged as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.judges.bounds import OWN, SAFETY, as_array, malformed
from tlora_ref.oracle.precision import Precision
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


def judge_initialize_a(
    got: object, *, W: Array, C: Array, r: int, switches: Switches, precision: Precision
) -> list[Verdict]:
    """A holds the top right singular vectors of W C, as orthonormal rows."""
    W, C = np.asarray(W, np.float64), np.asarray(C, np.float64)
    A = as_array(got, (r, W.shape[1]))
    if isinstance(A, str):
        return [malformed("initialize_a", "A", _shape_cause(got, A, W.shape, r))]
    # The size of W C means nothing to A: powers of two keep the numbers in range, exactly.
    W, C = (m * 2.0 ** -math.frexp(float(np.abs(m).max()) or 1.0)[1] for m in (W, C))
    found = spectrum(W, C, switches, precision)
    rounding = (precision.storage + SAFETY * (precision.accumulation + OWN)) * math.sqrt(r) * 2.0
    rounding += SAFETY * math.sqrt(max(W.shape)) * (precision.accumulation + OWN)
    rounding += SAFETY * math.sqrt(max(W.shape)) * svd_unit(switches)
    orthonormal = _orthonormal(A, rounding)
    verdicts = [orthonormal, row_space("initialize_a", A, found, rounding), _energy(A, found, rounding)]
    if all(v.passed for v in verdicts):
        return verdicts
    cause = a_cause(A, W, C, r)
    return [v if v.passed else replace(v, cause=cause) for v in verdicts]


def _shape_cause(got: object, said: str, shape: tuple[int, ...], r: int) -> str:
    found = getattr(got, "shape", None)
    if found == (shape[1], r):
        return f"{said}: A is transposed"
    if found is not None and len(found) == 2 and found[1] == shape[0] and shape[0] != shape[1]:
        return f"{said}: A holds left singular vectors, of length d_out"
    if found is not None and len(found) == 2 and found[0] == shape[1] and found[1] == shape[1]:
        return f"{said}: A is not cut to r rows"
    return said


def _orthonormal(A: Array, rounding: float) -> Verdict:
    """Rows of length 1 at right angles: every entry of A A^T - I."""
    gram = A @ A.T - np.eye(len(A))
    allowed = 2.0 * rounding
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(gram))), gram.shape))
    error = float(abs(gram[index]))
    here = float(index[0] == index[1])
    return Verdict(
        "initialize_a", "orthonormal rows", error <= allowed, error, allowed, index, float(gram[index]) + here, here
    )


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


def _energy(A: Array, found: Spectrum, rounding: float) -> Verdict:
    """A catches as much of W C as any r directions can: ||M A^T||_F against the r largest singular values."""
    r = len(A)
    best = float(np.linalg.norm(found.sigma[:r]))
    caught = float(np.linalg.norm(found.M @ A.T))
    allowed = 2.0 * math.sqrt(r) * found.error + rounding * 2.0 * float(np.linalg.norm(found.sigma))
    error = abs(best - caught)
    return Verdict("initialize_a", "energy", error <= allowed, error, allowed, None, caught, best)


def a_cause(A: Array, W: Array, C: Array, r: int) -> str | None:
    """Which known slip has this A, by its row space or, where rows are not orthonormal, by its entries."""
    for text, candidate in _alternatives(W, C, r):
        if candidate.shape == A.shape and _same_rows(A, candidate):
            return text
    return None


def _same_rows(A: Array, other: Array) -> bool:
    """The same row space with the same lengths of rows."""
    if not np.allclose(np.linalg.norm(A, axis=1), np.linalg.norm(other, axis=1), rtol=1e-3):
        return False
    Q, P = np.linalg.qr(A.T)[0], np.linalg.qr(other.T)[0]
    return float(np.linalg.norm(P - Q @ (Q.T @ P), ord=2)) <= 1e-3


def _alternatives(W: Array, C: Array, r: int) -> list[tuple[str, Array]]:
    M = W @ C
    U, sigma, Vt = np.linalg.svd(M, full_matrices=True)
    values, vectors = np.linalg.eigh(C)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    padded = np.concatenate([sigma, np.zeros(max(0, r - len(sigma)))])[:r, None]
    last = min(M.shape)

    def right(matrix: Array) -> Array:
        return np.linalg.svd(matrix, full_matrices=True)[2][:r]

    return [
        ("A holds left singular vectors of W C", U.T[:r]),
        ("A holds columns of V^T, not rows", Vt[:, :r].T),
        ("A holds rows of U, not of V^T", U[:r]),
        ("A ignores C: right singular vectors of W (W-SVD)", right(W)),
        ("A ignores W: eigenvectors of C (PCA of the inputs)", vectors.T[::-1][:r]),
        ("A is taken from W C^1/2 (Eq. 3), not from W C", right(W @ root)),
        ("A is taken from W C^2", right(M @ C)),
        ("A is taken from C W^T: left for right", right(M.T)) if M.shape[0] == M.shape[1] else ("", Vt[:0]),
        ("A is taken from W^T C", right(W.T @ C)) if M.shape[0] == M.shape[1] else ("", Vt[:0]),
        ("A is taken from W - C", right(W - C)) if W.shape == C.shape else ("", Vt[:0]),
        ("A holds the bottom singular vectors", Vt[max(0, last - r) : last]),
        ("A holds the bottom singular vectors, of the null space too", Vt[len(Vt) - r :]),
        ("A leaves out the first singular vector", Vt[1 : r + 1]),
        ("the rows of A are scaled by the singular values", padded * Vt[:r]),
        ("the rows of A are scaled by the roots of the singular values", np.sqrt(padded) * Vt[:r]),
        ("the rows of A are divided by the root of the rank", Vt[:r] / math.sqrt(r)),
        ("the rows of A are scaled by the root of d_in", Vt[:r] * math.sqrt(W.shape[1])),
        ("A is the first rows of W C", M[:r]),
        ("A is the first rows of the identity", np.eye(W.shape[1])[:r]),
        ("A is zero", np.zeros((r, W.shape[1]))),
    ]
