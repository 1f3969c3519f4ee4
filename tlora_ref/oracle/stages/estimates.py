"""Settings of AdamW read off a step that is wrong: another beta, weight decay, learning rate or eps.

They are told after the known slips that leave as little.

Each new moment is a combination of the old one and the gradient, and each new B one of the old B and the direction of
the update: two numbers, by least squares. They are slips like all others: one that leaves an error explains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.causes import Fitted
from tlora_ref.oracle.stages.bounds import FITTED, Slip, as_array, fitting
from tlora_ref.oracle.verdict import Verdict

#: Other values of eps in use.
EPSILONS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-10, 1e-12, 1e-16)
#: Estimates that agree to this share are the same number.
NEAR = 2e-3


def or_fitted(
    verdict: Verdict, got: object, expected: Array, allowed: Array, slips: Callable[[Array], list[Slip]]
) -> Verdict:
    """A wrong verdict with the slips that are fitted to what was got among those that explain it."""
    array = as_array(got, expected.shape)
    if verdict.passed or isinstance(array, str):
        return verdict
    fits = fitting(array, expected, allowed, slips(array))
    return verdict.blamed([*verdict.fits, *((Fitted(text), left + FITTED) for text, left in fits)])


def of_moment(name: str, got: Array, old: Array, new: Array, beta: float) -> list[Slip]:
    """What a moment looks like if it weighs the old one and the new term (g or g^2) otherwise; `beta` is right."""
    number, a, c = "1" if name == "exp_avg" else "2", *_two(got, old, new)
    if a is None or c is None:
        return []
    factor = c / (1.0 - beta)
    times = f"{factor if number == '1' else math.sqrt(max(factor, 0.0)):.3g}"
    used = f"the gradient is used {times} times"
    if not np.any(old):  # of a first step c alone is known
        texts = [f"beta{number} is {1.0 - c:.3g}, not {beta:g}"] if 0.0 < c < 1.0 else []
        texts += [used] if c > 0.0 else []
    elif abs(a) < NEAR and _near(c, 1.0 - beta):
        texts = [f"{name} is forgotten between the steps"]
    elif _near(a, 1.0) and _near(c, 1.0):
        texts = [f"{name} is summed up, without beta{number}" + (" (Adagrad)" if number == "2" else "")]
    elif c > 0.0 and _near(a, beta):
        texts = [used] if times != "1" else []  # what is off is not its weight
    elif abs(a + c - 1.0) < NEAR * abs(c):
        texts = [f"beta{number} is {a:.3g}, not {beta:g}"]
    else:
        texts = [f"{name} is {a:.3g} times the old one and {c:.3g} times the gradient" + " squared" * (number == "2")]
    return [(text, lambda: a * old + c * new) for text in texts]


def of_weight(got: Array, B: Array, m: Array, v: Array, settings: Mapping[str, Any]) -> list[Slip]:
    """What B looks like by its new moments under another weight decay, learning rate or eps."""
    step, lr, (b1, b2) = settings["step"], settings["lr"], settings["betas"]
    eps, decay = settings["eps"], settings["weight_decay"]
    mean, root = m / (1.0 - b1**step), np.sqrt(v / (1.0 - b2**step))
    direction = mean / (root + eps)
    slips: list[Slip] = [
        (f"eps is {e:g}, not {eps:g}", lambda e=e: B * (1.0 - lr * decay) - lr * mean / (root + e))  # type: ignore[misc]
        for e in EPSILONS
        if e != eps
    ]
    kept, moved = _two(got, B, direction)
    if kept is None or moved is None or lr == 0.0:
        return slips
    lost, rate = (1.0 - kept if np.any(B) else lr * decay), -moved
    if not np.any(B) or abs(lost - rate * decay) <= NEAR * max(abs(rate * decay), NEAR * abs(rate)):
        text = f"the learning rate is {rate / lr:.6g} times what it should be"
    elif _near(rate, lr):
        text = f"the weight decay is {lost / lr:.3g}, not {decay:g}"
    else:
        text = f"the update is {rate / lr:.3g} times what it should be, the weight decay {lost / lr:.3g}, not {decay:g}"
    return [*slips, (text, lambda: kept * B + moved * direction)]


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=NEAR)


def _two(got: Array, one: Array, other: Array) -> tuple[float | None, float | None]:
    """a and c of the a one + c other that is nearest to `got`; 0 for one that is zero, None where nothing is told."""
    size, *sizes = (float(np.abs(x).max(initial=0.0)) for x in (got, one, other))
    columns = [x.ravel() / s for x, s in zip((one, other), sizes, strict=True) if s > 0.0]
    if not columns or got.size <= len(columns) or not np.isfinite([size, *sizes]).all():
        return None, None
    # of size 1, all of them: squares of what may be near the largest number would overflow
    found = iter(np.linalg.lstsq(np.stack(columns, axis=1), got.ravel() / (size or 1.0), rcond=None)[0])
    a, c = (float(next(found)) / s * size if s > 0.0 else 0.0 for s in sizes)
    return (a, c) if np.isfinite([a, c]).all() else (None, None)
