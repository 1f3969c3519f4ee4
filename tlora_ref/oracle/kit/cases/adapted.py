"""Cases of the adapted module: Eq. 1, its gradient (Eq. 2), and the merged weight."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.oracle.kit.cases.values import Inputs, Maker

REFUSED: frozenset[str] = frozenset()
SCALES = (1.0, 0.5, 2.5, 0.0)


def _module(m: Maker, *, tokens: int | None = None, r: int | None = None) -> Inputs:
    """x, dy, W, A, B and the scale of one module."""
    d_out, d_in = m.sides()
    rank = r or m.size(1, min(d_in, d_out))
    tokens = tokens or m.size()
    return {
        **{"x": m.array(tokens, d_in), "dy": m.array(tokens, d_out), "W": m.array(d_out, d_in)},
        **{"A": m.orthonormal(rank, d_in), "B": m.array(d_out, rank), "scale": m.pick(*SCALES)},
    }


def _full_rank(m: Maker) -> Inputs:
    d = m.size()
    return {
        **{"x": m.array(2, d), "dy": m.array(2, d), "W": m.array(d, d)},
        **{"A": m.orthonormal(d, d), "B": m.array(d, d), "scale": 1.5},
    }


def _blank(name: str) -> Callable[[Maker], Inputs]:
    def blank(m: Maker) -> Inputs:
        inputs = _module(m)
        return inputs | {name: np.zeros_like(inputs[name]), "scale": 2.0}

    return blank


def _moved(name: str, sign: int) -> Callable[[Maker], Inputs]:
    def moved(m: Maker) -> Inputs:
        inputs = _module(m)
        return inputs | {name: inputs[name] * m.far(sign)}

    return moved


def _of(stage: str, make: Callable[[Maker], Inputs]) -> Callable[[Maker], Inputs]:
    """The inputs that this stage takes."""
    wanted = {
        "forward": ("x", "W", "A", "B", "scale"),
        "grad_b": ("x", "dy", "A", "B", "scale"),
        "merge": ("W", "A", "B", "scale"),
    }[stage]
    return lambda m: {name: value for name, value in make(m).items() if name in wanted}


def _cases(
    stage: str, formula: str, zero: tuple[str, str], far: str
) -> list[tuple[str, str, Callable[[Maker], Inputs]]]:
    name, said = zero
    return [
        (f"{stage}/typical", formula, _of(stage, lambda m: _module(m) | {"scale": m.pick(0.75, 2.5)})),
        (f"{stage}/one-token", "one token", _of(stage, lambda m: _module(m, tokens=1))),
        (f"{stage}/rank-one", "r = 1", _of(stage, lambda m: _module(m, r=1))),
        (f"{stage}/full-rank", "r = d_out = d_in", _of(stage, _full_rank)),
        (f"{stage}/zero-scale", "a scale of zero", _of(stage, lambda m: _module(m) | {"scale": 0.0})),
        (f"{stage}/zero-{name}", said, _of(stage, _blank(name))),
        (f"{stage}/huge", "huge and ordinary numbers together", _of(stage, _moved(far, 1))),
        (f"{stage}/tiny", "tiny and ordinary numbers together", _of(stage, _moved(far, -1))),
    ]


CASES: list[tuple[str, str, Callable[[Maker], Inputs]]] = [
    *_cases("forward", "y = x W^T + s x A^T B^T", ("B", "before training the model is the frozen one"), "x"),
    *_cases("grad_b", "dB = s dy^T x A^T", ("dy", "gradients of zero"), "dy"),
    *[
        case
        for case in _cases("merge", "W' = W + s B A", ("B", "nothing was trained: W stays"), "B")
        if not case[0].endswith("one-token")
    ],
]  # fmt: skip
