"""Cases of the sensitivities S (Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable

from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()


def _gradients(m: Maker, *, n: int | None = None, scale_W: float = 1.0, scale_G: float = 1.0) -> Inputs:
    (d_out, d_in), n = m.sides(), n or m.size(1, 4)
    return {"W": m.array(d_out, d_in) * scale_W, "gradients": [m.array(d_out, d_in) * scale_G for _ in range(n)]}


def _cancelling(m: Maker) -> Inputs:
    d_out, d_in = m.sides()
    G = m.nonzero(d_out, d_in)
    return {"W": m.nonzero(d_out, d_in), "gradients": [G, -G]}


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("sensitivity/typical", "S = (1/N) sum mean|W * dLoss_n/dW|", lambda m: _gradients(m, n=m.size(2, 4))),
    ("sensitivity/one-sample", "N = 1", lambda m: _gradients(m, n=1)),
    ("sensitivity/cancelling-gradients", "gradients whose mean is zero: absolute values come first", _cancelling),
    ("sensitivity/zero-gradients", "gradients of zero give S = 0", lambda m: _gradients(m, scale_G=0.0)),
    ("sensitivity/zero-weight", "W of zero gives S = 0", lambda m: _gradients(m, scale_W=0.0)),
    ("sensitivity/huge", "huge weights", lambda m: _gradients(m, scale_W=m.far(1))),
    ("sensitivity/tiny", "tiny gradients", lambda m: _gradients(m, scale_G=m.far(-1))),
]  # fmt: skip
