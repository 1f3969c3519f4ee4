"""Clipping and learning rates of a step: what every gradient was multiplied with, and slips with either."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.method.adamw import clip_factor
from tlora_ref.method.schedule import SCHEDULES, learning_rate, warmup_steps
from tlora_ref.oracle.reports.finding import Finding
from tlora_ref.oracle.stages.bounds import OWN, SAFETY, Slip, entries
from tlora_ref.oracle.stages.sides import Sides


@dataclass(frozen=True)
class Clip:
    """What all gradients of a step are multiplied with, and how far that may be off, relatively.

    Attributes
    ----------
    norm, largest, norms : of all gradients together, their largest entry, the sum of each one's norm
    """

    factor: float = 1.0
    error: float = 0.0
    norm: float = 0.0
    largest: float = 0.0
    norms: float = 0.0


def clip_of(sides: Sides, step: int) -> Clip | None:
    """By its settings, of the candidate's gradients; None where it cannot be told."""
    most = sides.train.get("max_grad_norm")
    if most is None:
        return Clip()
    names = [f"train/{step}/grad_{letter}/{m}" for letter in sides.letters for m in sides.adapted]
    if not all(map(sides.candidate.has, names)):
        return None
    gradients = [sides.candidate.get(name) for name in names]
    norms = [float(np.linalg.norm(g)) for g in gradients]
    norm, largest = math.hypot(*norms), max(float(np.abs(g).max(initial=0.0)) for g in gradients)
    # the norm of each matrix, that of the norms, the factor and the product: each is rounded to the storage
    p, numbers = sides.shown(gradients), sum(g.size for g in gradients)
    error = 4.0 * p.storage + SAFETY * (math.sqrt(numbers) + 1.0) * (p.accumulation + OWN)
    error = error if norm * (1.0 + error) > most else 0.0
    return Clip(clip_factor(norm, most), error, norm, largest, sum(norms))


def rates(sides: Sides) -> Finding:
    """The learning rate of each step, from the candidate's settings."""
    got = sides.candidate.get("train/lr")
    right, allowed = scheduled(sides, len(got)), 8.0 * sides.unit * sides.train["lr"]
    slips = _rate_slips(sides, len(got))
    return sides.own("adamw", None, entries("adamw", "learning rates", got, right, allowed, slips))


def _rate_slips(sides: Sides, steps: int) -> list[Slip]:
    """What the learning rates would be after each known slip with the schedule."""
    train = sides.train
    total, schedule, ratio, peak = int(train["steps"] or steps), train["schedule"], train["warmup_ratio"], train["lr"]
    warmup = warmup_steps(total, ratio)
    in_warmup, rising = np.arange(steps) < warmup, peak * (np.arange(steps) + 1) / max(1, warmup)

    def of(late: int = 0, total: int = total, **rules: Any) -> Callable[[], Array]:
        rules = {"schedule": schedule, "warmup": warmup} | rules
        return lambda: np.array([learning_rate(max(0, t - late), total, peak, **rules) for t in range(steps)])

    others = [name for name in SCHEDULES if name != schedule]
    return [
        ("the schedule is a step late", of(late=1)),
        ("the schedule is a step early", of(late=-1)),
        ("there is no warm-up", of(warmup=0)),
        ("the warm-up's steps have the full rate", lambda: np.where(in_warmup, peak, scheduled(sides, steps))),
        ("the warm-up begins above 0", lambda: np.where(in_warmup, rising, scheduled(sides, steps))),
        ("the warm-up's steps are rounded down", of(warmup=int(total * ratio))),
        ("the schedule ends a step early", of(total=max(1, total - 1))),
        ("the schedule ends a step late", of(total=total + 1)),
        ("the learning rate is constant: neither schedule nor warm-up", of(schedule="constant", warmup=0)),
        *((f"the schedule is {name}, not {schedule}", of(schedule=name)) for name in others),
    ]


def scheduled(sides: Sides, steps: int) -> Array:
    """The learning rates of the first `steps` steps, by the settings."""
    train = sides.train
    total = int(train["steps"] or steps)
    rules = {"schedule": train["schedule"], "warmup_ratio": train["warmup_ratio"]}
    return np.array([learning_rate(t, total, train["lr"], **rules) for t in range(steps)])


def other_updates(sides: Sides, step: int, grad: Array, clip: Clip) -> list[tuple[str, dict[str, Any]]]:
    """What slips with the clipping and the learning rate put into a step; `grad` is not clipped."""
    most, c = sides.train.get("max_grad_norm"), sides.candidate
    found: list[tuple[str, dict[str, Any]]] = []
    if most is not None:
        found = [
            ("the gradient is not clipped", {"grad": grad}),
            (
                "each matrix is clipped by its own norm",
                {"grad": clip_factor(float(np.linalg.norm(grad)), most) * grad},
            ),
            ("the gradient is clipped entry by entry", {"grad": np.clip(grad, -most, most)}),
            ("the gradient is clipped to norm 1, not to max_grad_norm", {"grad": clip_factor(clip.norm, 1.0) * grad}),
            ("the gradient is clipped to twice max_grad_norm", {"grad": clip_factor(clip.norm, 2.0 * most) * grad}),
        ]
        if clip.norm:
            found.append(("PyTorch's 1e-6 beside the norm is left out", {"grad": min(1.0, most / clip.norm) * grad}))
            scaled = "the gradient is scaled to max_grad_norm where it is shorter too"
            found.append((scaled, {"grad": most / clip.norm * grad}))
        sizes = {"squared norm": clip.norm**2, "largest entry": clip.largest, "sum of the norms": clip.norms}
        for text, size in sizes.items():  # with torch's 1e-6 beside the size, and without
            for factor in (clip_factor(size, most), min(1.0, most / size)) if size else ():
                found.append((f"the gradient is clipped by the {text}, not by the norm", {"grad": factor * grad}))
    planned = scheduled(sides, int(sides.train["steps"] or step))
    rates = c.get("train/lr") if c.has("train/lr") else planned
    if step <= min(len(planned), len(rates)) and planned[step - 1] != rates[step - 1]:
        text = "the update is made with the learning rate of the settings, not with the one that is recorded"
        found.append((text, {"lr": float(planned[step - 1])}))
    for text, t in (("step before", step - 2), ("step after", step), ("first step", 0)):
        if 0 <= t < len(rates) and t != step - 1:
            found.append((f"the learning rate is that of the {text}", {"lr": float(rates[t])}))
    return found
