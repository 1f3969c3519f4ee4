"""AdamW and the schedules: against high-precision sums, closed forms, and real PyTorch and transformers."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlora_ref.errors import ConfigError, ShapeError
from tlora_ref.method.adamw import adamw_step, clip_factor
from tlora_ref.method.schedule import SCHEDULES, learning_rate, warmup_steps

SETTINGS = {"lr": 0.03, "betas": (0.45, 0.3), "eps": 1e-3, "weight_decay": 0.2}


def run(B: np.ndarray, grads: list[np.ndarray], **settings: object) -> list[tuple[np.ndarray, ...]]:
    states, state = [], (B, np.zeros_like(B), np.zeros_like(B))
    for step, grad in enumerate(grads, start=1):
        state = adamw_step(state[0], grad, *state[1:], step=step, **settings)
        states.append(state)
    return states


# ---- AdamW ----


def test_first_step_is_a_decay_and_a_sign() -> None:
    """Bias correction makes m^ = g and v^ = g^2: the step is lr g / (|g| + eps), whatever the betas."""
    B, g = np.array([[2.0, -1.0], [0.5, 0.0]]), np.array([[3.0, -0.001], [1e-9, 0.0]])
    new, m, v = adamw_step(B, g, 0 * B, 0 * B, step=1, lr=0.1)
    expected = [[2 - 0.002 - 0.1, -1 + 0.001 + 0.1], [0.5 - 0.0005 - 0.1 * 1e-9 / (1e-9 + 1e-8), 0.0]]
    np.testing.assert_allclose(new, expected, rtol=1e-5)
    np.testing.assert_allclose(m, g / 10, rtol=1e-12)
    np.testing.assert_allclose(v, g**2 / 1000, rtol=1e-12)


def test_a_constant_gradient_keeps_its_first_step() -> None:
    states = run(np.zeros(1), [np.full(1, -0.4)] * 6, lr=0.01, weight_decay=0.0, eps=0.1)
    assert [float(state[0][0]) for state in states] == pytest.approx([0.01 * 0.8 * t for t in range(1, 7)], rel=1e-12)


def test_without_a_gradient_only_the_decay_acts() -> None:
    states = run(np.full(1, 5.0), [np.zeros(1)] * 3, lr=0.1, weight_decay=0.5)
    assert float(states[-1][0][0]) == pytest.approx(5 * 0.95**3, rel=1e-14)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=7), st.floats(-2, 2))
def test_moments_are_weighted_sums_of_all_gradients_in_fifty_digits(grads: list[float], start: float) -> None:
    states = run(np.array([start]), [np.array([g]) for g in grads], **SETTINGS)
    with mpmath.workdps(50):
        lr, eps, decay = (mpmath.mpf(SETTINGS[key]) for key in ("lr", "eps", "weight_decay"))
        b1, b2 = map(mpmath.mpf, SETTINGS["betas"])
        B = mpmath.mpf(start)
        for t, (got_B, got_m, got_v) in enumerate(states, start=1):
            past = [mpmath.mpf(g) for g in grads[:t]]
            weights1, weights2 = ([b ** (t - k) for k in range(1, t + 1)] for b in (b1, b2))
            mean = mpmath.fdot(weights1, past) / sum(weights1)  # the bias correction makes it a weighted mean
            square = mpmath.fdot(weights2, [g * g for g in past]) / sum(weights2)
            B -= lr * (decay * B + mean / (mpmath.sqrt(square) + eps))
            assert float(got_B[0]) == pytest.approx(float(B), rel=1e-12, abs=1e-13)
            assert float(got_m[0]) == pytest.approx(float(mean * (1 - b1**t)), rel=1e-12, abs=1e-13)
            assert float(got_v[0]) == pytest.approx(float(square * (1 - b2**t)), rel=1e-12, abs=1e-200)


def test_adamw_changes_no_input_and_keeps_float32() -> None:
    arrays = [np.full((2, 3), value, dtype=np.float32) for value in (1.0, 0.5, 0.1, 0.2)]
    kept = [array.copy() for array in arrays]
    assert {array.dtype for array in adamw_step(*arrays, step=3, lr=0.1)} == {np.dtype("float32")}
    assert all(np.array_equal(a, b) for a, b in zip(arrays, kept, strict=True))


def test_adamw_refuses_other_shapes_and_step_0() -> None:
    B = np.zeros((2, 3))
    for odd in (["B"], ["grad"], ["m"], ["v"], ["m", "v"], ["grad", "m", "v"]):
        for shape in ((3, 2), (1, 3)):
            arrays = [np.zeros(shape) if name in odd else B for name in ("B", "grad", "m", "v")]
            with pytest.raises(ShapeError, match="must agree"):
                adamw_step(*arrays, step=1, lr=0.1)
    with pytest.raises(ConfigError, match="step is 0"):
        adamw_step(B, B, B, B, step=0, lr=0.1)


@pytest.mark.parametrize(
    ("norm", "max_norm", "factor"), [(0.0, 1.0, 1.0), (0.75, 1.0, 1.0), (4.0, 1.0, 0.25), (1e-6, 1e-6, 0.5)]
)
def test_clipping_shortens_what_is_too_long_alone(norm: float, max_norm: float, factor: float) -> None:
    """The last case shows torch's 1e-6 beside the norm."""
    assert clip_factor(norm, max_norm) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("settings", [{"lr": 1e-2}, SETTINGS])
def test_adamw_is_torch_s(dtype: str, settings: dict[str, object]) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    B, *grads = (rng.standard_normal((4, 3)).astype(dtype) for _ in range(9))
    theirs = torch.nn.Parameter(torch.tensor(B))
    optimizer = torch.optim.AdamW([theirs], **settings)
    close = 1e-14 if dtype == "float64" else 1e-6
    for grad, (new, m, v) in zip(grads, run(B, grads, **settings), strict=True):
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        state = optimizer.state[theirs]
        for ours, their in ((new, theirs), (m, state["exp_avg"]), (v, state["exp_avg_sq"])):
            np.testing.assert_allclose(ours, their.detach().numpy(), rtol=close, atol=close)


# ---- schedules ----


def rates(total: int, schedule: str, ratio: float, peak: float = 2.0) -> list[float]:
    return [learning_rate(step, total, peak, schedule=schedule, warmup_ratio=ratio) for step in range(total + 1)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_rises_from_zero_by_equal_steps(schedule: str) -> None:
    assert rates(20, schedule, 0.25)[:6] == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6, 2.0], rel=1e-15)


def test_after_the_warm_up() -> None:
    assert rates(9, "linear", 0.5)[5:] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    cosine = [1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0]  # cos at 45, 90, 135, 180 degrees
    assert rates(9, "cosine", 0.5)[6:] == pytest.approx(cosine, abs=1e-15)
    assert rates(9, "constant", 0.5)[5:] == [2.0] * 5
    for schedule in ("linear", "cosine", "cosine_with_restarts"):
        assert rates(4, schedule, 0.75)[3:] == [2.0, 0.0]  # one step alone


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.0), ("cosine", 2.0), ("constant", 2.0)])
def test_a_run_that_is_all_warm_up_ends_as_transformers_ends_it(schedule: str, last: float) -> None:
    assert rates(2, schedule, 1.0) == [0.0, 1.0, last]


@pytest.mark.parametrize("schedule", ["linear", "cosine_with_restarts"])
def test_after_the_end_the_rate_stays_zero(schedule: str) -> None:
    assert [learning_rate(step, 8, 2.0, schedule=schedule, cycles=2) for step in (8, 9, 11, 20)] == [0.0] * 4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_warm_up_the_first_step_has_the_peak(schedule: str) -> None:
    assert rates(7, schedule, 0.0)[0] == 2.0


def test_the_paper_s_run() -> None:
    """Warm-up ratio 0.03 and the cosine are the defaults; one warm-up step at least."""
    assert learning_rate(0, 5, 1.0) == 0.0
    assert learning_rate(1, 5, 1.0) == 1.0
    assert learning_rate(3, 5, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("total", "ratio", "expected"), [(100, 0.03, 3), (101, 0.03, 4), (5, 0.03, 1), (9, 0, 0)])
def test_warm_up_steps_round_up(total: int, ratio: float, expected: int) -> None:
    assert warmup_steps(total, ratio) == expected


@pytest.mark.parametrize("step", [0, 50])
def test_an_unknown_schedule_is_refused_in_the_warm_up_too(step: int) -> None:
    with pytest.raises(ConfigError, match="expected cosine, cosine_with_restarts, linear, constant"):
        learning_rate(step, 100, 1.0, schedule="polynomial")


@pytest.mark.parametrize("ratio", [-0.1, 1.5, math.nan])
def test_a_warm_up_longer_than_the_run_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="warmup_ratio"):
        learning_rate(0, 100, 1.0, warmup_ratio=ratio)


def test_the_floor_is_where_the_cosine_ends_and_restarts_begin_anew() -> None:
    floored = [learning_rate(step, 8, 2.0, warmup=2, min_lr=0.5) for step in range(9)]
    assert floored[:3] == [0.0, 1.0, 2.0] and floored[5] == pytest.approx(1.25) and floored[8] == 0.5
    options = {"schedule": "cosine_with_restarts", "warmup": 1, "cycles": 2}
    twice = [learning_rate(step, 9, 2.0, **options) for step in range(10)]
    half = [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)]  # cos at 0, 45, 90, 135 degrees
    assert twice == [0.0, *map(pytest.approx, half + half), 0.0] and twice[1] == 2.0


@pytest.mark.parity
@pytest.mark.parametrize(("total", "warmup", "floor", "cycles"), [(40, 3, 0.1, 1), (40, 0, 0.0, 3), (7, 2, 0.5, 2)])
def test_floors_and_restarts_are_transformers(total: int, warmup: int, floor: float, cycles: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for name, ours, more in (
        ("cosine_with_min_lr", {"schedule": "cosine", "min_lr": floor}, {"min_lr": floor}),
        ("cosine_with_restarts", {"schedule": "cosine_with_restarts", "cycles": cycles}, {"num_cycles": cycles}),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        options = {"num_warmup_steps": warmup, "num_training_steps": total, "scheduler_specific_kwargs": more}
        scheduler = transformers.get_scheduler(name, optimizer, **options)
        for step in range(total + 1):
            found = learning_rate(step, total, 2.0, warmup=warmup, **ours)
            assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-13, abs=1e-15), (name, step)
            optimizer.step()
            scheduler.step()


@pytest.mark.parity
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total", "ratio"), [(40, 0.03), (40, 0.3), (7, 0.0), (3, 1.0), (1, 0.03)])
def test_schedules_are_transformers(schedule: str, total: int, ratio: float) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    steps = transformers.TrainingArguments(warmup_steps=ratio).get_warmup_steps(total) if ratio < 1 else total
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=steps, num_training_steps=total)
    theirs = []
    for _ in range(total + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates(total, schedule, ratio) == pytest.approx(theirs, rel=1e-13, abs=1e-15)
