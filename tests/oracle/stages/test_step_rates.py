"""The learning rate that the last B of a run in float32 tells, to a few millionths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.training import judge_train
from tlora_ref.oracle.verdict import Verdict

SINGLE, f = Precision.of("float32"), np.float32
TOLD = "how often each update is made"
#: Whether 1 - beta, and 1 - beta^t, are formed in float32 of a rounded beta: legitimate, each and both.
SCALARS = [(False, False), (False, True), (True, False), (True, True)]


def inputs(seed: int, d_out: int = 20, tokens: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    A = SINGLE.rounded(np.linalg.qr(rng.normal(size=(16, 4)))[0].T)
    x = [SINGLE.rounded(rng.normal(size=(tokens, 16))) for _ in range(4)]
    dy = [SINGLE.rounded(rng.normal(size=(tokens, d_out))) for _ in range(4)]
    lr = ([0.01, 0.02, 0.01, 0.0], [0.01, 0.01, 0.005, 0.002])[seed % 2]
    return {"A": A, "x": x, "dy": dy, "scale": 0.7, "lr": lr}


def trained(
    given: dict[str, Any], weights: bool = False, powers: bool = False, rates: Any = 1.0
) -> tuple[Array, Array]:
    """AdamW in float32, every operation rounded; `rates` is what the learning rates are multiplied with."""
    A = given["A"].astype(f)
    B = np.zeros((given["dy"][0].shape[1], len(A)), f)
    m, v = np.zeros_like(B), np.zeros_like(B)
    for t, lr in enumerate(np.asarray(given["lr"]) * rates, start=1):
        g = f(given["scale"]) * (given["dy"][t - 1].astype(f).T @ (given["x"][t - 1].astype(f) @ A.T))
        w1, w2 = (f(1) - f(0.9), f(1) - f(0.999)) if weights else (f(0.1), f(0.001))
        c1, c2 = (f(1) - f(b) ** f(t) if powers else f(1 - b**t) for b in (0.9, 0.999))
        m, v = f(0.9) * m + w1 * g, f(0.999) * v + w2 * g * g
        B = B * f(1 - lr * 0.01) - f(lr) * (m / c1) / (np.sqrt(v / c2) + f(1e-8))
    return A, B


def judged(given: dict[str, Any], got: tuple[Array, Array], dtype: str = "float32") -> list[Verdict]:
    return judge_train(got, **given, switches=PROFILES["paper"], precision=Precision.of(dtype))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scalars", SCALARS)
def test_a_right_run_is_right_whichever_numbers_are_formed_in_float32(seed: int, scalars: tuple[bool, bool]) -> None:
    given = inputs(seed)
    *_, told = judged(given, trained(given, *scalars))
    assert told.what == TOLD and told.passed and told.detects is not None and told.detects < 9e-6
    offset = abs(float(told.got or 0.0) - 1.0)
    if scalars == (False, False):
        assert offset < 1e-6
    elif scalars != (True, True):  # 0.999 is 1.29e-8 more in float32: 1.29e-5 of 1 - beta2, half of that in the root
        assert abs(offset - 0.65e-5) < 0.2e-5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("factor", [1.00001, 0.99999])
def test_a_rate_off_by_a_hundred_thousandth_is_seen_and_named(seed: int, factor: float) -> None:
    given = inputs(seed)
    first, final, told = judged(given, trained(given, rates=factor))
    assert first.passed and final.passed and not told.passed  # no entry shows it
    assert told.cause == f"the learning rate is {factor:.6g} times what it should be"


def test_one_step_of_another_rate_is_seen_and_not_called_the_rate_of_all() -> None:
    given = inputs(1)
    *_, told = judged(given, trained(given, rates=np.array([1.0, 1.0001, 1.0, 1.0])))
    assert not told.passed and told.index == (1,) and told.cause is None
    assert told.got == pytest.approx(1.0001, abs=1e-5)


def test_where_entries_are_too_few_or_the_precision_is_another_nothing_is_said() -> None:
    few = inputs(0, d_out=5)
    assert len(judged(few, trained(few))) == 2  # 20 entries of three steps
    given = inputs(0)
    for dtype in ("float64", "bfloat16", "float16"):
        assert TOLD not in {v.what for v in judged(given, trained(given), dtype)}
    still = {**given, "lr": [0.0] * 4}
    assert TOLD not in {v.what for v in judged(still, trained(still))}
    same = {**given, "x": given["x"][:1] * 4, "dy": given["dy"][:1] * 4}  # every update is the first one's
    assert TOLD not in {v.what for v in judged(same, trained(same))}
