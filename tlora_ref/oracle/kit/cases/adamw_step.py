"""Cases of one step of AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()

TORCH = {"lr": 0.0625, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def _step(m: Maker, **settings: Any) -> Inputs:
    """A later step from moments that a run could have."""
    shape = m.sides()
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
]  # fmt: skip
