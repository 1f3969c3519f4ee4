# ruff: noqa: E501 (one case a line)
"""Cases of short runs in which B alone trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()


def _run(
    m: Maker, *, steps: int | None = None, r: int | None = None, lr: Callable[[int], float] = lambda t: 0.0625
) -> Inputs:
    """Inputs and output gradients of every step for one module, no gradient of B zero by accident."""
    steps, tokens, (d_out, d_in) = steps or m.size(2, 5), m.size(1, 4), m.sides()
    rank = r or m.size(1, min(d_in, d_out))
    return {
        **{"A": m.orthonormal(rank, d_in), "x": [m.nonzero(tokens, d_in) for _ in range(steps)]},
        **{"dy": [m.array(tokens, d_out) for _ in range(steps)], "scale": m.pick(1.5, 0.5)},
        "lr": [lr(t) for t in range(steps)],
    }


def _still(m: Maker) -> Inputs:
    inputs = _run(m)
    return inputs | {"dy": [np.zeros_like(dy) for dy in inputs["dy"]]}


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    ("train/typical", "several steps from B = 0; A stays", lambda m: _run(m)),
    ("train/one-step", "one step", lambda m: _run(m, steps=1)),
    ("train/changing-rate", "a learning rate that falls to zero", lambda m: _run(m, steps=4, lr=lambda t: 0.0625 * (3 - t) / 3)),
    ("train/rank-one", "r = 1", lambda m: _run(m, r=1)),
    ("train/zero-gradients", "gradients of zero leave B at zero", _still),
]  # fmt: skip
