"""Where the update of a trained module lies: in the row space that A spans, and how it is spread over A's rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlora_ref.backend import Array


@dataclass(frozen=True)
class Update:
    """dW = s B A of one module after the steps.

    Attributes
    ----------
    norm, relative : ||dW||_F, and the same over ||W_0||_F
    outside : the part of dW outside the row space of the A that it began with, over ||dW||_F; 0 for an update of zero
    rows : (r,), the share of ||dW||_F^2 along every row of that A
    by_chance : r / d_in, the share that a random direction would have in that row space
    """

    norm: float
    relative: float
    outside: float
    rows: Array
    by_chance: float


def measure_update(dW: Array, W: Array, A: Array) -> Update:
    """What became of one module: dW, W (d_out, d_in), and the orthonormal A (r, d_in) at the start of training."""
    along = dW @ A.T  # (d_out, r)
    norm = float(np.linalg.norm(dW))
    some = norm or 1.0
    return Update(
        norm=norm,
        relative=norm / (float(np.linalg.norm(W)) or 1.0),
        outside=float(np.linalg.norm(dW - along @ A)) / some,
        rows=(along * along).sum(axis=0) / some**2,
        by_chance=len(A) / A.shape[1],
    )
