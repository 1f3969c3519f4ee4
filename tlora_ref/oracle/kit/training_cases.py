# ruff: noqa: E501 (one case a line)
"""Cases of AdamW and of short runs in which B alone trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlora_ref.oracle.kit.values import Maker

Inputs = dict[str, Any]
REFUSED: frozenset[str] = frozenset()
TORCH = {"lr": 0.0625, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def _step(m: Maker, **settings: Any) -> Inputs:
    """A later step from moments that a run could have."""
    shape = (m.size(), m.size())
    inputs: Inputs = {"B": m.array(*shape), "grad": m.nonzero(*shape), "exp_avg": m.array(*shape)}
    inputs["exp_avg_sq"] = m.positive(*shape)
    return inputs | {"step": m.size(2, 40)} | TORCH | settings


def _first(m: Maker, **settings: Any) -> Inputs:
    """The first step: moments are zero."""
    inputs = _step(m, **settings)
    zero = np.zeros_like(inputs["B"])
    return inputs | {"exp_avg": zero, "exp_avg_sq": zero.copy(), "step": 1}


def _from_zero(m: Maker) -> Inputs:
    inputs = _first(m)
    return inputs | {"B": np.zeros_like(inputs["B"])}


def _zero_gradient(m: Maker) -> Inputs:
    inputs = _first(m)
    return inputs | {"grad": np.zeros_like(inputs["B"])}


def _faint(m: Maker) -> Inputs:
    """Gradients of the size of eps: eps stands outside the root."""
    inputs = _first(m, eps=2.0**-6)
    return inputs | {"grad": inputs["grad"] * 2.0**-6}


def _huge(m: Maker) -> Inputs:
    inputs = _first(m)
    return inputs | {"grad": inputs["grad"] * m.far(1)}


def _run(
    m: Maker, *, steps: int | None = None, r: int | None = None, lr: Callable[[int], float] = lambda t: 0.0625
) -> Inputs:
    """Inputs and output gradients of every step for one module, no gradient of B zero by accident."""
    steps, tokens, d_in, d_out = steps or m.size(2, 5), m.size(1, 4), m.size(), m.size()
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
    ("adamw_step/typical", "a later step, torch's defaults", lambda m: _step(m)),
    ("adamw_step/first-step", "bias correction of step 1: the update is about lr sign(g)", lambda m: _first(m)),
    ("adamw_step/from-zero", "B = 0, as every run starts", _from_zero),
    ("adamw_step/zero-gradient", "gradients of zero: nothing but decay", _zero_gradient),
    ("adamw_step/weight-decay", "decoupled decay, scaled by the learning rate", lambda m: _step(m, weight_decay=0.5)),
    ("adamw_step/no-decay", "weight_decay = 0", lambda m: _step(m, weight_decay=0.0)),
    ("adamw_step/zero-learning-rate", "lr = 0: the moments move, B does not", lambda m: _step(m, lr=0.0)),
    ("adamw_step/other-betas", "betas (0.5, 0.75)", lambda m: _step(m, betas=(0.5, 0.75))),
    ("adamw_step/no-momentum", "betas (0, 0.5)", lambda m: _step(m, betas=(0.0, 0.5))),
    ("adamw_step/eps-matters", "gradients of the size of eps", _faint),
    ("adamw_step/huge", "huge gradients", _huge),
    ("train/typical", "several steps from B = 0; A stays", lambda m: _run(m)),
    ("train/one-step", "one step", lambda m: _run(m, steps=1)),
    ("train/changing-rate", "a learning rate that falls to zero", lambda m: _run(m, steps=4, lr=lambda t: 0.0625 * (3 - t) / 3)),
    ("train/rank-one", "r = 1", lambda m: _run(m, r=1)),
    ("train/zero-gradients", "gradients of zero leave B at zero", _still),
]  # fmt: skip
