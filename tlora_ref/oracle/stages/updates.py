"""What AdamW's moments and B would be after each known slip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.stages.bounds import Slip

HALF = "half of the update is made: the learning rate is halved, or B is the average of old and new"
L2 = "weight decay is added to the gradient (Adam with L2, not AdamW)"


def adamw_slips(B: Array, m: Array, v: Array, g: Array, **settings: Any) -> dict[str, list[Slip]]:
    """What each of the three would be after each known slip; `settings` are those of `adamw_step`."""
    b1, b2 = settings["betas"]
    step, weight_decay = settings["step"], settings["weight_decay"]
    m1, v1 = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    c1 = 1 - b1**step
    folded = g + weight_decay * B
    return {
        "exp_avg": [
            ("exp_avg takes the whole gradient, without 1 - beta1", lambda: b1 * m + g),
            ("the betas are swapped", lambda: b2 * m + (1 - b2) * g),
            (L2, lambda: b1 * m + (1 - b1) * folded),
            ("beta1 weighs the gradient: 1 - beta1 and beta1 are swapped", lambda: (1 - b1) * m + b1 * g),
            ("exp_avg is not updated", lambda: m),
            ("exp_avg is stored after bias correction", lambda: m1 / c1),
            (
                "exp_avg is stored after bias correction in every step",
                lambda: (b1 * m * (1 - b1 ** (step - 1)) + (1 - b1) * g) / c1,
            ),
        ],
        "exp_avg_sq": _of_squares(v, g, m1, folded, (b1, b2), step),
        "B": weight_slips(B, g, m1, v1, settings),
    }


def _of_squares(v: Array, g: Array, m1: Array, folded: Array, betas: tuple[float, float], step: int) -> list[Slip]:
    """What exp_avg_sq would be; `m1` is the new exp_avg, `folded` the gradient with the decay in it."""
    b1, b2 = betas
    v1, c2 = b2 * v + (1 - b2) * g * g, 1 - b2**step
    return [
        ("exp_avg_sq takes the gradient, not its square", lambda: b2 * v + (1 - b2) * g),
        ("exp_avg_sq takes |g|, not its square", lambda: b2 * v + (1 - b2) * np.abs(g)),
        ("the betas are swapped", lambda: b1 * v + (1 - b1) * g * g),
        ("exp_avg_sq takes the whole square, without 1 - beta2", lambda: b2 * v + g * g),
        (L2, lambda: b2 * v + (1 - b2) * folded**2),
        ("exp_avg_sq keeps its largest value (AMSGrad)", lambda: np.maximum(v, v1)),
        ("exp_avg_sq is the largest square (Adamax)", lambda: np.maximum(b2 * v, g * g)),
        ("exp_avg_sq is one mean square a row", lambda: b2 * v + (1 - b2) * _mean_square(g, 1)),
        ("exp_avg_sq is one mean square of the whole matrix", lambda: b2 * v + (1 - b2) * _mean_square(g, None)),
        ("exp_avg_sq is not updated", lambda: v),
        ("exp_avg_sq is stored after bias correction", lambda: v1 / c2),
        (
            "exp_avg_sq is stored after bias correction in every step",
            lambda: (b2 * v * (1 - b2 ** (step - 1)) + (1 - b2) * g * g) / c2,
        ),
        ("exp_avg_sq is stored as its root", lambda: np.sqrt(b2 * v * v + (1 - b2) * g * g)),
        ("exp_avg_sq takes (g - exp_avg)^2 (AdaBelief)", lambda: b2 * v + (1 - b2) * (g - m1) ** 2),
    ]


def _mean_square(g: Array, axis: int | None) -> Array:
    return np.broadcast_to(np.mean(g * g, axis=axis, keepdims=True), g.shape)


def update(B: Array, m: Array, v: Array, settings: Mapping[str, Any]) -> Array:
    """B after a step, by its new moments."""
    c1, c2 = (1.0 - beta ** settings["step"] for beta in settings["betas"])
    lr = settings["lr"]
    return B * (1.0 - lr * settings["weight_decay"]) - lr * m / c1 / (np.sqrt(v / c2) + settings["eps"])


def weight_slips(B: Array, g: Array, m: Array, v: Array, settings: Mapping[str, Any]) -> list[Slip]:
    """What B would be after each known slip; m and v are the moments after the step."""
    step, lr, betas, eps, weight_decay = (settings[k] for k in ("step", "lr", "betas", "eps", "weight_decay"))
    kept, nothing = B * (1 - lr * weight_decay), np.zeros_like(B)
    c1, c2 = 1 - betas[0] ** step, 1 - betas[1] ** step

    def moved(mean: Array, square: Array, *, of: Array = kept, e: float = eps) -> Array:
        return of - lr * mean / (np.sqrt(square) + e)

    def corrected(t: int) -> Array:
        return moved(m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)) if t > 0 else np.full_like(B, np.inf)

    return [
        ("there is no bias correction", lambda: moved(m, v)),
        ("exp_avg is not bias-corrected", lambda: moved(m, v / c2)),
        ("exp_avg_sq is not bias-corrected", lambda: moved(m / c1, v)),
        ("the bias corrections of exp_avg and exp_avg_sq are exchanged", lambda: moved(m / c2, v / c1)),
        ("the update is the sign of exp_avg (Lion)", lambda: kept - lr * np.sign(m)),
        (
            "the update looks ahead (Nesterov)",
            lambda: moved(betas[0] * m / (1 - betas[0] ** (step + 1)) + (1 - betas[0]) * g / c1, v / c2),
        ),
        (HALF, lambda: (B + moved(m / c1, v / c2)) / 2.0),
        ("eps stands inside the root", lambda: kept - lr * m / c1 / np.sqrt(v / c2 + eps)),
        ("eps is added before the bias correction", lambda: moved(m / c1 * np.sqrt(c2), v)),
        *_decayed_otherwise(B, moved(m / c1, v / c2, of=nothing), lr, weight_decay),
        ("the step is counted from 0: bias correction is off by one", lambda: corrected(step - 1)),
        ("bias correction is one step ahead", lambda: corrected(step + 1)),
        ("eps is left out", lambda: moved(m / c1, np.maximum(v / c2, 1e-300), e=0.0)),
        ("the gradient stands for exp_avg: no momentum", lambda: moved(g, v / c2)),
        ("the update is not divided by the root of exp_avg_sq", lambda: kept - lr * m / c1),
        ("the update is divided by exp_avg_sq, not by its root", lambda: kept - lr * m / c1 / (v / c2 + eps)),
        ("plain gradient descent, with weight decay", lambda: kept - lr * g),
        *_normalised_otherwise(kept, g, m / c1, v / c2, settings),
        ("the bias correction is that of step 1 throughout", lambda: corrected(1)),
        ("the update goes uphill", lambda: kept + lr * (m / c1) / (np.sqrt(v / c2) + eps)),
        ("the update is not made", lambda: B),
    ]


def _decayed_otherwise(B: Array, change: Array, lr: float, weight_decay: float) -> list[Slip]:
    """What B would be if it were decayed otherwise; `change` is the update without the decay."""
    return [
        ("the weight is not decayed", lambda: B + change),
        ("weight decay is not multiplied by lr", lambda: B * (1 - weight_decay) + change),
        ("weight decay is applied twice", lambda: B * (1 - 2 * lr * weight_decay) + change),
        ("weight decay is applied after the update", lambda: (B + change) * (1 - lr * weight_decay)),
    ]


def _normalised_otherwise(kept: Array, g: Array, m: Array, v: Array, settings: Mapping[str, Any]) -> list[Slip]:
    """What B would be if its update were normalised otherwise; m and v are corrected, `kept` is B decayed."""
    lr, eps, (_, b2), step = (settings[k] for k in ("lr", "eps", "betas", "step"))
    c2, step_size = 1 - b2**step, m / (np.sqrt(v) + eps)
    before = np.maximum(v * c2 - (1 - b2) * g * g, 0.0) / b2

    def moved(square: Array) -> Array:
        return kept - lr * m / (np.sqrt(square) + eps)

    return [
        ("the update is divided by the root of the exp_avg_sq before the step", lambda: moved(before / c2)),
        ("the update is divided by the root of the mean of exp_avg_sq", lambda: moved(np.full_like(v, v.mean()))),
        (
            "the update is divided by the root of each row's mean of exp_avg_sq",
            lambda: moved(np.broadcast_to(v.mean(axis=-1, keepdims=True), v.shape)),
        ),
        ("the update is cut at lr", lambda: kept - lr * np.clip(step_size, -1.0, 1.0)),
        (
            "the update is made where exp_avg and the gradient agree alone (cautious)",
            lambda: kept - lr * step_size * (m * g > 0),
        ),
    ]
