"""Stage "A" (Eq. 4): A holds the top right singular vectors of W C, as orthonormal rows.

Judged by the candidate's own C and rank where the weights are there, with its singular values; and by the golden C, or,
without the weights, against the golden A. Every row is judged where the gaps of the singular values determine it; signs
and the order of rows are free, and so is the basis where singular values are equal: see `spectrum.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.switches import Switches
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, as_array, entries, malformed
from tlora_ref.oracle.stages.directions import judge_directions
from tlora_ref.oracle.stages.lengths import MEAN, judge_lengths
from tlora_ref.oracle.stages.network import UNIT32
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.spectrum import ROTATED, Spectrum, product_error, row_space, rows, spectrum, svd_unit
from tlora_ref.oracle.stages.zeros import judge_zeros
from tlora_ref.oracle.verdict import Verdict

#: Two rows are one, but for the sign, where their cosine is beyond this.
ALONG = 0.99
#: How much larger |W| |C - C'| / |W C| may be than |C - C'| / |C|, where W is not known.
UNKNOWN_W = 8.0


def findings(sides: Sides) -> list[Finding]:
    """A from the candidate's own C and rank (the weights are needed), and against the golden C."""
    found = []
    for module in sides.golden.modules("A"):
        W = sides.weight(module)
        if not sides.candidate.has(f"A/{module}"):
            found.append(sides.missing("A", "A", module) or sides.skipped("A", module, "not recorded (or rank 0)"))
        else:
            judged = _without_weights(sides, module) if W is None else _with_weights(sides, module, W)
            judged = _of_another(sides, module, judged)
            notes = [f.verdict.note for f in judged if f.verdict is not None and f.verdict.note]
            found += judged + [sides.noted("A", note, module) for note in notes[:1]]
    return found + ([] if any(f.verdict is not None and not f.verdict.passed for f in found) else _together(sides))


def _of_another(sides: Sides, module: str, judged: list[Finding]) -> list[Finding]:
    """The same findings, with the cause where the rows are the first ones, but for signs, of another module's A."""
    A, wrong = sides.candidate.get(f"A/{module}"), [f for f in judged if f.verdict is not None and not f.verdict.passed]
    others = (sides.golden.get(f"A/{m}") for m in sides.golden.modules("A") if m != module)
    if not wrong or not any(len(G) and G.shape[1:] == A.shape[1:] and _along(A, G) for G in others):
        return judged
    cause = [("A is that of another module", 0.0)]
    return [replace(f, verdict=f.verdict.blamed(cause)) if f.verdict is not None and f in wrong else f for f in judged]


def _along(A: Array, other: Array) -> bool:
    """Whether the rows of both are along one another, one by one, as far as both have them."""
    r = min(len(A), len(other))
    size = np.linalg.norm(A[:r], axis=1) * np.linalg.norm(other[:r], axis=1)
    return bool((np.abs((A[:r] * other[:r]).sum(axis=1)) > ALONG * size).all())


def _together(sides: Sides) -> list[Finding]:
    """What the rows of all modules show together where no module is wrong, in a low precision."""
    modules = [m for m in sides.golden.modules("A") if sides.candidate.has(f"A/{m}")]
    own = {m: sides.candidate.get(f"A/{m}") for m in modules}
    rounding = max((_before_storage(sides.golden.shapes[m], sides.switches) for m in modules), default=0.0)
    lengths = [v for v in judge_lengths(own, sides.precision, rounding) if v.what == MEAN]
    found = [sides.own("A", None, replace(v, what=f"{v.what} of all modules")) for v in lengths]
    zeros = judge_zeros(sides.network, "A", "A", ((own[m], sides.golden.get(f"A/{m}")) for m in modules))
    return found if zeros is None else [*found, sides.finding("A", GOLDEN, None, zeros)]


def _with_weights(sides: Sides, module: str, W: Array) -> list[Finding]:
    """A by the candidate's own C, and by the golden C with room for the difference between the two."""
    A, name = sides.candidate.get(f"A/{module}"), f"covariance/{module}"
    judging = {"W": W, "r": len(A), "switches": sides.switches, "precision": sides.precision}
    found = []
    if sides.candidate.has(name):
        C = sides.candidate.get(name)
        own = spectrum_in_range(W, C, sides.switches, sides.precision)
        judged = judge_initialize_a(A, C=C, decomposed=own, **judging)  # type: ignore[arg-type]
        found = [sides.own("A", module, verdict) for verdict in judged] + _singular_values(sides, module, W, C, own)
    if sides.golden.has(name):
        C = sides.golden.get(name)
        # the C that the candidate used, which it need not have recorded, is off by what the network costs
        noise = sides.network("covariance", module, C) * len(C) * float(np.linalg.norm(W, ord=2))
        if not found:  # a bare adapter: the golden C is all there is, and it tells the cause too
            judged = judge_initialize_a(A, C=C, error=noise, **judging)  # type: ignore[arg-type]
            return [sides.finding("A", GOLDEN, module, v) for v in judged]
        gold = spectrum(W, C, sides.switches, sides.precision)
        looser = replace(gold, error=gold.error + noise)
        found += [sides.finding("A", GOLDEN, module, v) for v in _both_rows(A, looser, sides.unit)]
    return found


def _both_rows(A: Array, found: Spectrum, unit: float) -> list[Verdict]:
    """The row space and the rows of A, each number of which is off by some of these roundings."""
    verdicts = [row_space("A", A, found, 8.0 * unit * len(A) ** 0.5), rows("A", A, found, 8.0 * unit)]
    return [verdicts[0], _rotated(verdicts[1]) if verdicts[0].passed else verdicts[1]]


def _rotated(verdict: Verdict) -> Verdict:
    """Of rows in a right row space."""
    return verdict if verdict.passed else replace(verdict, cause=ROTATED)


def _singular_values(sides: Sides, module: str, W: Array, C: Array, own: Spectrum) -> list[Finding]:
    """sigma of W C, with the candidate's own C: each moves by at most the error in W C (Weyl 1912)."""
    name, power = f"sigma/{module}", -sum(_powers(W, C))
    if not sides.candidate.has(name):
        return []
    M, expected = np.ldexp(own.M, power), np.ldexp(own.sigma[: min(W.shape)], power)
    error = product_error(W, C, M, float(expected[0]), sides.switches, sides.precision)
    return [sides.own("A", module, entries("A", "singular values", sides.candidate.get(name), expected, error))]


def _without_weights(sides: Sides, module: str) -> list[Finding]:
    """Orthonormal rows; and row space and rows by the golden A, where the golden singular values determine them."""
    A, golden = sides.candidate.get(f"A/{module}"), sides.golden.get(f"A/{module}")
    sigma = sides.golden.get(f"sigma/{module}") if sides.golden.has(f"sigma/{module}") else np.zeros(0)
    shape, r = sides.golden.shapes[module], len(golden)
    found = [sides.own("A", module, _orthonormal(A, _turns(len(A), shape, sides.switches, sides.precision)[0]))]
    lengths = judge_lengths({module: A}, sides.precision, _before_storage(shape, sides.switches))
    found += [sides.own("A", module, verdict) for verdict in lengths]
    if not sides.golden.has(f"covariance/{module}"):
        return [*found, sides.skipped("A", module, "the golden trace has no covariance: give --checkpoint to judge it")]
    if len(A) != r or len(sigma) < min(shape):
        return [*found, sides.skipped("A", module, "another rank than the golden one: give --checkpoint to judge it")]
    padded = np.concatenate([sigma, np.zeros(shape[1] - len(sigma))])
    known = Spectrum(np.zeros((0, shape[1])), padded, golden, moved(sides, module, sigma))
    if r not in known.sharp():
        why = "the cut splits a cluster of singular values: give --checkpoint to judge it"
        found.append(sides.skipped("A", module, why))
    return found + [sides.finding("A", GOLDEN, module, v) for v in _both_rows(A, known, max(sides.unit, OWN))]


def moved(sides: Sides, module: str, sigma: Array) -> float:
    """How far the candidate's W C may be from the golden one, where W is not known: W C is as large as sigma says."""
    C, name = sides.golden.get(f"covariance/{module}"), f"covariance/{module}"
    noise = sides.network("covariance", module, C) * len(C)
    if sides.candidate.has(name):  # a wrong C does not make a wrong A right
        noise = min(noise, float(np.linalg.norm(sides.candidate.get(name) - C, ord=2)))
    p, top = sides.precision, float(sigma[0])
    # |W C - W C'| is at most |W| |C - C'|: taken to be a few times as large, by the share of W C, as C - C' is of C
    moved = UNKNOWN_W * noise / (float(np.linalg.norm(C, ord=2)) or 1.0)
    return top * (moved + 64.0 * max(p.accumulation, p.product, svd_unit(sides.switches))) + p.storage * float(
        np.linalg.norm(sigma)
    )


def _turns(r: int, shape: tuple[int, int], switches: Switches, precision: Precision) -> tuple[float, float]:
    """How far rounding may turn r rows of A together, and one of them."""
    stored = precision.storage + SAFETY * (precision.accumulation + OWN)
    found = SAFETY * math.sqrt(max(shape)) * (precision.accumulation + OWN + svd_unit(switches))
    return stored * math.sqrt(r) * 2.0 + found, stored + found


def _before_storage(shape: tuple[int, int], switches: Switches) -> float:
    """How far a row of A may be from length 1 before it is stored in a low precision: found in float32."""
    return _turns(1, shape, switches, Precision.of("float32"))[1]


def spectrum_in_range(W: Array, C: Array, switches: Switches, precision: Precision) -> Spectrum:
    """W C by powers of two in the middle of the range, with all that `judge_initialize_a` needs of it."""
    powers = _powers(W, C)
    low = precision.storage > UNIT32  # directions are judged, those that W C does not see too
    return spectrum(np.ldexp(W, powers[0]), np.ldexp(C, powers[1]), switches, precision, whole=low)


def _powers(W: Array, C: Array) -> list[int]:
    """The size of W C means nothing to A: powers of two keep the numbers in range, exactly."""
    return [-math.frexp(float(np.abs(m).max()) or 1.0)[1] for m in (W, C)]


def judge_initialize_a(
    got: object,
    *,
    W: Array,
    C: Array,
    r: int,
    switches: Switches,
    precision: Precision,
    error: float = 0.0,
    decomposed: Spectrum | None = None,
) -> list[Verdict]:
    """A holds the top right singular vectors of W C, as orthonormal rows.

    error : how far off W C may be before
    decomposed : `spectrum_in_range` of W and C, where it is known already
    """
    W, C = np.asarray(W, np.float64), np.asarray(C, np.float64)
    A = as_array(got, (r, W.shape[1]))
    if isinstance(A, str):
        return [malformed("initialize_a", "A", _shape_cause(got, A, W.shape, r))]
    found, powers = decomposed or spectrum_in_range(W, C, switches, precision), _powers(W, C)
    W, C = np.ldexp(W, powers[0]), np.ldexp(C, powers[1])
    with np.errstate(over="ignore"):  # of the smallest numbers an error may be infinitely many
        found = replace(found, error=found.error + float(np.ldexp(error, sum(powers))))
    rounding, of_one = _turns(r, W.shape, switches, precision)
    space = [_orthonormal(A, rounding), row_space("initialize_a", A, found, rounding), _energy(A, found, rounding)]
    svd = found.U, found.sigma[: min(W.shape)], found.Vt
    directions = None if error else judge_directions(A, W, C, precision, svd)
    verdicts = [*space, rows("initialize_a", A, found, of_one), *([] if directions is None else [directions])]
    lengths = judge_lengths({"": A}, precision, _before_storage(W.shape, switches))
    if all(v.passed for v in verdicts):
        return [*verdicts, *lengths]
    verdicts += lengths
    right_space = all(v.passed for v in space)
    fits = a_causes(A, W, C, r, row_by_row=right_space, powers=-sum(powers)) or ([ROTATED] if right_space else [])
    if fits == [ROTATED] and directions is not None and not directions.passed:
        fits = [ROTATED] if directions.cause else []  # rows that are off by themselves may leave their space, too
    return [v if v.passed else v.blamed((text, 0.0) for text in fits) for v in verdicts]


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


def _energy(A: Array, found: Spectrum, rounding: float) -> Verdict:
    """A catches as much of W C as any r directions can: ||M A^T||_F against the r largest singular values."""
    r = len(A)
    best = float(np.linalg.norm(found.sigma[:r]))
    caught = float(np.linalg.norm(found.M @ A.T))
    allowed = 2.0 * math.sqrt(r) * found.error + rounding * 2.0 * float(np.linalg.norm(found.sigma))
    error = abs(best - caught)
    return Verdict("initialize_a", "energy", error <= allowed, error, allowed, None, caught, best)


def a_causes(A: Array, W: Array, C: Array, r: int, *, row_by_row: bool = False, powers: int = 0) -> list[str]:
    """Which known slips have this A, by its row space and lengths of rows, or (`row_by_row`) by each row.

    powers : of two, by which W C was larger: what has the size of W C is as much larger
    """
    same = _same_rows if row_by_row else _same_space
    with np.errstate(over="ignore", under="ignore"):  # of W C that is too large or small nothing is told
        made = _alternatives(W, C, r, powers)
    found = [text for text, other in made if other.shape == A.shape and np.isfinite(other).all() and same(A, other)]
    return found + [text for text, other in _columns(W @ C, r) if other.shape == A.shape and _same_sizes(A, other)]


def _same_sizes(A: Array, other: Array) -> bool:
    """The same but for the signs of entries: those of singular vectors are free, and here they go along columns."""
    return bool(np.allclose(np.abs(A), np.abs(other), rtol=1e-3, atol=1e-6))


def _columns(M: Array, r: int) -> list[tuple[str, Array]]:
    """What is read off the singular vectors of M the wrong way round."""
    U, _, Vt = np.linalg.svd(M, full_matrices=True)
    return [("A holds columns of V^T, not rows", Vt[:, :r].T), ("A holds rows of U, not of V^T", U[:r])]


def _same_rows(A: Array, other: Array) -> bool:
    """Unit rows that are the same up to sign and order."""
    of_length_one = np.allclose(np.linalg.norm(other, axis=1), 1.0, rtol=1e-3)
    return of_length_one and bool((np.abs(A @ other.T).max(axis=1, initial=0.0) >= 1.0 - 1e-6).all())


def _same_space(A: Array, other: Array) -> bool:
    """The same row space with the same lengths of rows."""
    if not np.allclose(np.linalg.norm(A, axis=1), np.linalg.norm(other, axis=1), rtol=1e-3):
        return False
    Q, P = np.linalg.qr(A.T)[0], np.linalg.qr(other.T)[0]
    return float(np.linalg.norm(P - Q @ (Q.T @ P), ord=2)) <= 1e-3


def _alternatives(W: Array, C: Array, r: int, powers: int) -> list[tuple[str, Array]]:
    M = W @ C
    U, sigma, Vt = np.linalg.svd(M, full_matrices=True)
    values, vectors = np.linalg.eigh(C)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    padded = np.concatenate([sigma, np.zeros(max(0, r - len(sigma)))])[:r, None]
    true = np.ldexp(padded, powers)
    last = min(M.shape)

    def right(matrix: Array) -> Array:
        return np.linalg.svd(matrix, full_matrices=True)[2][:r]

    return [
        ("A holds left singular vectors of W C", U.T[:r]),
        ("A ignores C: right singular vectors of W (W-SVD)", right(W)),
        ("A ignores W: eigenvectors of C (PCA of the inputs)", vectors.T[::-1][:r]),
        ("A is taken from W C^1/2 (Eq. 3), not from W C", right(W @ root)),
        ("A is taken from W C^2", right(M @ C)),
        ("A is taken from W and the diagonal of C alone", right(W * np.diag(C))),
        ("A is taken from W and the root of C's diagonal", right(W * np.sqrt(np.maximum(np.diag(C), 0.0)))),
        ("A is taken from W C^-1, not from W C", right(W @ np.linalg.pinv(C))),
        ("A is taken from C W^T: left for right", right(M.T)) if M.shape[0] == M.shape[1] else ("", Vt[:0]),
        ("A is taken from W^T C", right(W.T @ C)) if M.shape[0] == M.shape[1] else ("", Vt[:0]),
        ("A is taken from W - C", right(W - C)) if W.shape == C.shape else ("", Vt[:0]),
        ("A holds the bottom singular vectors", Vt[max(0, last - r) : last]),
        ("A holds the bottom singular vectors, of the null space too", Vt[len(Vt) - r :]),
        ("A leaves out the first singular vector", Vt[1 : r + 1]),
        ("A's last row is the singular vector after its own", np.concatenate([Vt[: r - 1], Vt[r : r + 1]])),
        ("the rows of A are scaled by the singular values", true * Vt[:r]),
        ("the rows of A are scaled by the roots of the singular values", np.sqrt(true) * Vt[:r]),
        ("the rows of A are divided by the root of the rank", Vt[:r] / math.sqrt(r)),
        ("the rows of A are divided by the root of d_in", Vt[:r] / math.sqrt(W.shape[1])),
        ("the rows of A are scaled by the singular values over the largest", padded / (sigma[0] or 1.0) * Vt[:r]),
        ("the rows of A are scaled by the root of d_in", Vt[:r] * math.sqrt(W.shape[1])),
        ("A is the first rows of W C", np.ldexp(M[:r], powers)),
        ("A is the first rows of the identity", np.eye(W.shape[1])[:r]),
        ("A is zero", np.zeros((r, W.shape[1]))),
    ]
