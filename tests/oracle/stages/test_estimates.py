"""Settings read off a wrong step: the updates are written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.causes import claim
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.adamw import judge_adamw_step

RNG = np.random.default_rng(5)
B, M, G = (RNG.normal(size=(6, 3)) for _ in range(3))
V = RNG.uniform(0.5, 2.0, size=(6, 3))
RIGHT: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def cause(*, made: dict[str, Any], forget: bool = False, factor: float = 1.0, step: int = 7) -> str | None:
    """What is said of a step with other settings, or from other moments and gradients."""
    used = {**RIGHT, **made}
    (b1, b2), lr, old = used["betas"], used["lr"], 0.0 if forget else 1.0
    m = b1 * M * old + (1 - b1) * factor * G
    v = b2 * V * old + (1 - b2) * (factor * G) ** 2
    # corrected by the right betas: one mistake at a time
    root = np.sqrt(v / (1 - 0.999**step)) + used["eps"]
    new = B * (1 - lr * used["weight_decay"]) - lr * m / (1 - 0.9**step) / root
    verdicts = judge_adamw_step(
        (new, m, v), B=B, grad=G, exp_avg=M, exp_avg_sq=V, step=step, switches=PROFILES["paper"],
        precision=Precision.of("float64"), **RIGHT,
    )  # fmt: skip
    return claim([verdict.explained_by for verdict in verdicts if not verdict.passed])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"betas": (0.95, 0.999)}, "beta1 is 0.95, not 0.9"),
        ({"betas": (0.9, 0.99)}, "beta2 is 0.99, not 0.999"),
        ({"weight_decay": 0.03}, "the weight decay is 0.03, not 0.1"),
        ({"lr": 0.011}, "the learning rate is 1.1 times what it should be"),
        ({"eps": 1e-4}, "eps is 0.0001, not 1e-08"),
    ],
    ids=str,
)
def test_a_setting_is_read_off_a_step(made: dict[str, Any], said: str) -> None:
    assert cause(made=made) == said


def test_forgotten_moments_and_another_gradient_are_told() -> None:
    assert "exp_avg is forgotten between the steps" in str(cause(made={}, forget=True))
    assert cause(made={}, factor=1.25) == "the gradient is used 1.25 times"
    assert cause(made={}) is None


def test_what_no_setting_gives_is_not_explained() -> None:
    noise = RNG.normal(size=B.shape)
    verdicts = judge_adamw_step(
        (B + 0.1 * noise, 0.9 * M + 0.1 * G, 0.999 * V + 0.001 * G * G), B=B, grad=G, exp_avg=M, exp_avg_sq=V, step=7,
        switches=PROFILES["paper"], precision=Precision.of("float64"), **RIGHT,
    )  # fmt: skip
    assert [v.passed for v in verdicts] == [True, True, False] and verdicts[-1].cause is None
