"""AdamW: clipping, learning rates, steps that are miscounted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, SETTINGS, Array, changed, noted, replaced, skipped, without
from tests.oracle.stages.cases import cases
from tlora_ref.errors import ConfigError
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
    assert report.first_failing == "adamw" and str(report.cause).startswith(
        "the learning rate is that of the step before"
    )


def test_clipped_gradients_are_told_from_whole_ones(golden: Path, tmp_path: Path) -> None:
    """The golden run clips: a candidate that says so and does not is wrong; one that lacks a gradient is not judged."""
    whole = {"profile": golden.name, "r_init": 2, "alpha": 3.0, "steps": 2}
    tr.trace(MODEL, SAMPLES, tmp_path / "w", settings=TrainSettings(batch_size=2, lr=1e-2), **whole)
    (tmp_path / "w" / "manifest.json").write_text((golden / "manifest.json").read_text())
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


OTHER: list[dict[str, Any]] = [
    {"schedule": "linear", "warmup_ratio": 0.5},
    {"max_grad_norm": 0.05},
    {"betas": (0.5, 0.75)},
    {"weight_decay": 0.3, "lr": 0.05},
    {"eps": 1e-3},
]


@pytest.mark.parametrize("changes", OTHER, ids=lambda changes: ", ".join(changes))
def test_a_candidate_is_judged_by_its_own_settings(changes: dict[str, Any], tmp_path: Path) -> None:
    """Its `train` block says them; one that says the golden run's, or nothing, is judged by those, and is wrong."""
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=2, alpha=3.0, steps=3)
    tr.trace(MODEL, SAMPLES, tmp_path / "c", r_init=2, alpha=3.0, steps=3, **changes)
    assert tr.compare(tmp_path / "c", tmp_path / "c", checkpoint=MODEL).passed
    report = tr.compare(tmp_path / "g", tmp_path / "c", checkpoint=MODEL)
    assert report.passed, [finding.line() for finding in report.of("fail")][:3]
    assert all(f"{name} " in noted(report, "adamw") for name in changes)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    for block in ({}, json.loads((tmp_path / "g" / "manifest.json").read_text())["train"]):
        (tmp_path / "c" / "manifest.json").write_text(json.dumps({**manifest, "train": block}))
        report = tr.compare(tmp_path / "g", tmp_path / "c", checkpoint=MODEL)
        assert report.first_failing == "adamw" and "own settings" not in noted(report, "adamw")
    said = {name: manifest["train"][name] for name in changes}  # what it leaves out is the golden run's
    (tmp_path / "c" / "manifest.json").write_text(json.dumps({**manifest, "train": said}))
    assert tr.compare(tmp_path / "g", tmp_path / "c", checkpoint=MODEL).passed


def test_a_rate_that_is_not_recorded_is_that_of_the_schedule(tmp_path: Path) -> None:
    rising: dict[str, Any] = {"schedule": "linear", "warmup_ratio": 1.0, "lr": 0.1, "steps": 3, "r_init": 2}
    tr.trace(MODEL, SAMPLES, tmp_path / "g", **rising)
    bare = changed(tmp_path / "g", tmp_path / "c", without("train/lr"))
    assert tr.compare(tmp_path / "g", bare, checkpoint=MODEL).passed
    assert tr.compare(bare, bare, checkpoint=MODEL).passed
    late = changed(
        last_updates(tmp_path / "g", tmp_path / "l", lambda g, norm: g, late=1), tmp_path / "b", without("train/lr")
    )
    report = tr.compare(tmp_path / "g", late, checkpoint=MODEL)
    assert report.first_failing == "adamw" and str(report.cause).startswith(
        "the learning rate is that of the step before"
    )


def test_a_trace_takes_the_settings_of_training_by_keyword(tmp_path: Path) -> None:
    tr.trace(MODEL, SAMPLES, tmp_path / "g", steps=2, noise=False, betas=[0.5, 0.75], max_grad_norm=0.1)
    train = Trace(tmp_path / "g").manifest.train
    assert (train["betas"], train["max_grad_norm"], train["schedule"], train["lr"]) == (
        [0.5, 0.75],
        0.1,
        "constant",
        1e-2,
    )
    for wrong in ({"momentum": 0.9}, {"betas": (0.9, 1.5)}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            tr.trace(MODEL, SAMPLES, tmp_path / "w", **wrong)
    assert not (tmp_path / "w").exists()
