"""Which rows of the candidate's A are which of golden's, and what the difference makes of a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.stages.gradient import BEYOND, UNKNOWN_G
from tlora_ref.oracle.stages.initialization import moved
from tlora_ref.oracle.stages.sides import Sides
from tlora_ref.oracle.stages.spectrum import Spectrum

OTHER_A = "A is another than golden's, or its rows are free: the steps must be recorded"


@dataclass(frozen=True)
class Rows:
    """The candidate's A (r, d_in) by golden's: A = turn (A_golden + error).

    Attributes
    ----------
    A, scale : golden's
    turn : (r, r), a permutation with signs
    inside : (r, r), how much of each golden row is in the error of each, entrywise
    outside : (r,), the length of the rest, in rows of golden's A
    error : (r, 1) or (r, d_in), how far A's entries may be off
    """

    A: Array
    scale: float
    turn: Array
    inside: Array
    outside: Array
    error: Array

    def gradient_error(self, grad: Array) -> Array:
        """How far A's error carries golden's dL/dB (d_out, r): outside golden's rows dL/dW' is not known."""
        largest = float(np.linalg.norm(grad, axis=1).max(initial=0.0))
        return np.abs(grad) @ self.inside.T + UNKNOWN_G * self.outside * largest


def rows_of(sides: Sides, m: str) -> Rows | str:
    """By the candidate's A; where it recorded none, by how far the noise of C may turn golden's rows."""
    g, c, names = sides.golden, sides.candidate, (f"A/{m}", f"scale/{m}", f"rank/{m}")
    if not all(map(g.has, names[:2])):
        return "the golden trace has not A and scale of every module"
    A, scale = g.get(names[0]), float(g.get(names[1]))
    if c.has(names[1]) and abs(float(c.get(names[1])) - scale) > 4.0 * sides.unit * abs(scale):
        return "its scales are others than golden's: the steps must be recorded"
    if c.has(names[2]) and int(c.get(names[2])) != len(A):
        return "its ranks are others than golden's: the steps must be recorded"
    return _by_own(c.get(names[0]), A, scale) if c.has(names[0]) else _by_gaps(sides, m, A, scale)


def _by_own(own: Array, A: Array, scale: float) -> Rows | str:
    if own.shape != A.shape:
        return "its ranks are others than golden's: the steps must be recorded"
    lengths = np.linalg.norm(A, axis=1)
    turn = signed_permutation(_of_length_one(own), _of_length_one(A))  # rows of a trained A are not orthogonal
    error = turn.T @ own - A  # (r, d_in)
    inside = error @ np.linalg.pinv(A)  # (r, r)
    outside = np.linalg.norm(error - inside @ A, axis=1) / lengths
    if float((np.linalg.norm(error, axis=1) / lengths).max()) > BEYOND:
        return OTHER_A
    return Rows(A, scale, turn, np.abs(inside), outside, np.abs(error))


def _of_length_one(rows: Array) -> Array:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0.0, lengths, 1.0)


def _by_gaps(sides: Sides, m: str, A: Array, scale: float) -> Rows | str:
    """Row k of right singular vectors lies between the cuts k and k + 1: what these may turn, it may."""
    g, shape = sides.golden, sides.golden.shapes[m]
    sigma = g.get(f"sigma/{m}") if g.has(f"sigma/{m}") else np.zeros(0)
    if g.manifest.init != "wc-svd" or len(sigma) < min(shape) or not g.has(f"covariance/{m}"):
        return "A is not recorded, and the golden trace does not determine it"
    padded = np.concatenate([sigma, np.zeros(shape[1] - len(sigma))])
    sines = Spectrum(np.zeros((0, shape[1])), padded, A, moved(sides, m, sigma)).sines()
    turns = sines[: len(A)] + sines[1 : len(A) + 1] + sides.unit  # (r,); free rows of length 1 are 2 apart at most
    return Rows(A, scale, np.eye(len(A)), np.tile(turns[:, None], len(A)), turns, turns[:, None])


def signed_permutation(own: Array, other: Array) -> Array:
    """(r, r): which row of `other` each row of `own` is most like, and with which sign: the likest pair first."""
    alike = own @ other.T
    left, turn = np.abs(alike), np.zeros_like(alike)
    for _ in range(len(alike)):
        i, j = np.unravel_index(int(np.argmax(left)), left.shape)
        turn[i, j] = -1.0 if alike[i, j] < 0.0 else 1.0
        left[i, :], left[:, j] = -1.0, -1.0
    return turn
