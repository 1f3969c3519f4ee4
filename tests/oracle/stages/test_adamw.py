"""AdamW: clipping, learning rates, steps that are miscounted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, SETTINGS, Array, changed, replaced, skipped, without
from tests.oracle.stages.cases import cases
from tlora_ref.method.adamw import adamw_step, clip_factor
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.adamw import NAMES
from tlora_ref.oracle.traces import Trace
from tlora_ref.training import TrainSettings


@pytest.mark.parity
def test_clipping_follows_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for size in (1e-9, 0.1, 3.0):
        for limit in (1e-3, 0.5, 1e3):
            gradients = [size * rng.normal(size=shape) for shape in ((3, 4), (5,))]
            leaves = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients]
            for leaf, g in zip(leaves, gradients, strict=True):
                leaf.grad = torch.tensor(g)
            norm = float(torch.nn.utils.clip_grad_norm_(leaves, limit))
            for leaf, g in zip(leaves, gradients, strict=True):
                np.testing.assert_allclose(clip_factor(norm, limit) * g, leaf.grad, rtol=1e-14)


@pytest.mark.parametrize(("step", "counted"), [(2, 1), (3, 2), (1, 2), (2, 3)])
def test_a_step_that_is_miscounted_is_named(step: int, counted: int) -> None:
    inputs = {**cases(0, Precision.of("float64"))["adamw_step"], "step": step}
    output = Reference().adamw_step(**{**inputs, "step": counted})
    verdicts = judge("adamw_step", inputs, output, switches=PROFILES["paper"], precision=Precision.of("float64"))
    said = "counted from 0" if counted < step else "one step ahead"
    assert [v.what for v in verdicts if not v.passed] == ["B"] and said in str(verdicts[-1].cause)


def norm_of_all(trace: Trace, step: int) -> float:
    """Of all gradients of a step."""
    letters = "B" if trace.manifest.resolved().freeze_A else "BA"
    grads = [trace.get(f"train/{step}/grad_{x}/{m}") for x in letters for m in trace.modules("A")]
    return math.sqrt(sum(float((g * g).sum()) for g in grads))


def last_updates(golden: Path, folder: Path, gradient: Callable[[Array, float], Array], late: int = 0) -> Path:
    """The golden run with another last update of every B; with a learning rate `late` steps late."""
    trace = Trace(golden)
    rates, last = trace.get("train/lr"), max(trace.numbered("train", "B"))

    def change(tensors: dict[str, Array]) -> dict[str, Array]:
        for m in trace.modules("A"):
            B, exp_avg, exp_avg_sq = (tensors[f"train/{last - 1}/{name}/{m}"] for name in NAMES)
            grad = gradient(tensors[f"train/{last}/grad_B/{m}"] * 1.0, norm_of_all(trace, last))
            settings = {"lr": float(rates[last - 1 - late]), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
            for name, value in zip(NAMES, adamw_step(B, grad, exp_avg, exp_avg_sq, step=last, **settings), strict=True):
                tensors[f"train/{last}/{name}/{m}"] = value
        return {name: x for name, x in tensors.items() if not name.startswith("merged/")}

    return changed(golden, folder, change)


CLIPPED: list[tuple[str, Callable[[Array, float], Array]]] = [
    ("the gradient is not clipped", lambda g, norm: g),
    ("each matrix is clipped by its own norm", lambda g, norm: g * min(1.0, 0.05 / (np.linalg.norm(g) + 1e-6))),
    ("the gradient is clipped entry by entry", lambda g, norm: np.clip(g, -0.05, 0.05)),
    ("the gradient is clipped to norm 1", lambda g, norm: g / (norm + 1e-6)),
]


@pytest.mark.parametrize(("cause", "gradient"), CLIPPED)
def test_a_slip_with_clipping_is_named(
    cause: str, gradient: Callable[[Array, float], Array], golden: Path, tmp_path: Path
) -> None:
    report = tr.compare(golden, last_updates(golden, tmp_path / "c", gradient), checkpoint=MODEL)
    assert report.first_failing == "adamw" and str(report.cause).startswith(cause)


def test_clipping_once_more_or_before_recording_is_named(golden: Path, tmp_path: Path) -> None:
    def right(g: Array, norm: float) -> Array:
        return g * min(1.0, 0.05 / (norm + 1e-6))

    report = tr.compare(golden, last_updates(golden, tmp_path / "right", right), checkpoint=MODEL)
    assert report.passed
    norm = norm_of_all(Trace(golden), 1)
    clipped = changed(golden, tmp_path / "c", replaced(r"train/1/grad_.*", lambda t, k: right(t[k], norm)))
    report = tr.compare(golden, clipped, checkpoint=MODEL)
    assert report.first_failing == "gradient" and report.cause == "it is recorded after clipping, not before"


def test_a_learning_rate_that_comes_a_step_late_is_named(tmp_path: Path) -> None:
    rising = replace(SETTINGS, schedule="linear", warmup_ratio=1.0, max_grad_norm=None, lr=0.1)
    tr.trace(MODEL, SAMPLES, tmp_path / "paper", r_init=2, alpha=3.0, steps=4, settings=rising)
    rates = Trace(tmp_path / "paper").get("train/lr")
    assert len(set(rates)) == 4
    late = last_updates(tmp_path / "paper", tmp_path / "late", lambda g, norm: g, late=1)
    report = tr.compare(tmp_path / "paper", late, checkpoint=MODEL)
    assert report.first_failing == "adamw" and report.cause == "the learning rate is that of the step before"


def test_clipped_gradients_are_told_from_whole_ones(golden: Path, tmp_path: Path) -> None:
    """The golden run clips: a candidate that does not is wrong, and one that lacks a gradient cannot be judged."""
    whole = {"profile": golden.name, "r_init": 2, "alpha": 3.0, "steps": 2}
    tr.trace(MODEL, SAMPLES, tmp_path / "w", settings=TrainSettings(batch_size=2, lr=1e-2), **whole)
    report = tr.compare(golden, tmp_path / "w", checkpoint=MODEL)
    assert report.first_failing == "adamw" and not report.passed
    module = next(iter(Trace(golden).modules("A")))
    lacking = changed(golden, tmp_path / "c", without(rf"train/1/grad_B/{module}"))
    report = tr.compare(golden, lacking, checkpoint=MODEL)
    assert report.passed and "step 1: clipped by the norm of all gradients" in skipped(report, "adamw")


def test_learning_rates_follow_the_golden_settings(golden: Path, tmp_path: Path) -> None:
    candidate = changed(golden, tmp_path / "c", replaced("train/lr", lambda t, k: t[k] * np.array([1.0, 1.001])))
    report = tr.compare(golden, candidate)
    wrong = [f.verdict for f in report.of("fail") if f.verdict and f.verdict.what == "learning rates"]
    assert len(wrong) == 1 and wrong[0].index == (1,)
