"""Gradients: what a profile trains, what is missing, other samples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, Array, Change, changed, noted, replaced, skipped, without
from tlora_ref.oracle.traces import Trace


def test_what_a_profile_trains_is_judged(golden: Path, tmp_path: Path) -> None:
    """A frozen where the profile trains it, or moved where it is frozen, is wrong."""
    trains_A = golden.name == "released"
    report = tr.compare(golden, golden, checkpoint=MODEL)
    judged = {f.verdict.what for f in report.of("pass") if f.verdict and f.stage in ("gradient", "adamw")}
    assert ({"dL/dA of step 1", "A_exp_avg of step 1"} <= judged) is trains_A and "dL/dB of step 1" in judged

    def start(tensors: dict[str, Array], name: str) -> Array:
        return tensors[name.replace("train/2/", "train/1/")]

    def moved(tensors: dict[str, Array]) -> dict[str, Array]:
        names = [k for k in tensors if k.startswith("A/")]
        return tensors | {f"train/1/{k}": tensors[k] * (1.0 + 1e-15) for k in names}

    candidate = changed(golden, tmp_path / "c", replaced("train/2/A/.*", start) if trains_A else moved)
    wrong = tr.compare(golden, candidate, checkpoint=MODEL)
    assert not wrong.passed and wrong.first_failing == ("adamw" if trains_A else "gradient")
    assert wrong.cause == ("the update is not made" if trains_A else "A was trained: TLoRA freezes it")


@pytest.mark.parametrize("what", ["grad_A", "A", "A_exp_avg"])
def test_a_candidate_that_does_not_record_how_it_trained_A_is_not_called_wrong(
    golden: Path, tmp_path: Path, what: str
) -> None:
    candidate = changed(golden, tmp_path / "c", without(rf"train/\d/{what}/.*"))
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    assert report.passed
    expected = {"grad_A": "dL/dA of step 1 is not recorded", "A": "step 2: A, B, scale", "A_exp_avg": ""}
    if golden.name == "released":
        assert expected[what] in skipped(report, "gradient")
        assert ("A or the moments before it" in skipped(report, "adamw")) is (what != "grad_A")


@pytest.mark.parametrize(("quantity", "stage"), [("A", "A"), ("train/1/B", "adamw"), ("train/2/B", "adamw")])
def test_a_rank_without_its_matrix_is_wrong(quantity: str, stage: str, golden: Path, tmp_path: Path) -> None:
    """Where other modules have theirs; nor is it taken for a module without an adapter."""
    module = Trace(golden).modules("A")[1]
    for checkpoint in (MODEL, None):
        candidate = changed(golden, tmp_path / f"c{checkpoint is None}", without(f"{quantity}/{module}"))
        report = tr.compare(golden, candidate, checkpoint=checkpoint)
        assert report.first_failing == stage and [f.module for f in report.of("fail")] == [module]
        assert "and there is no matrix" in str(report.cause)
    assert quantity == "train/2/B" or "A, B, scale or the batch is not recorded" in skipped(
        tr.compare(golden, candidate, checkpoint=MODEL), "gradient"
    )
    none = changed(golden, tmp_path / "none", without(rf"{quantity}/.*"))
    assert tr.compare(golden, none, checkpoint=MODEL).passed


@pytest.mark.parametrize(("gone", "wrong"), [("train/1/grad_B/", "train/1/grad_B/"), ("train/1/B/", "train/3/grad_B/")])
def test_what_stands_behind_something_missing_is_judged(gone: str, wrong: str, tmp_path: Path) -> None:
    """Another module of a step, and a step after one that cannot be judged."""
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=2, alpha=3.0, steps=3)
    first, *_, last = Trace(tmp_path / "g").modules("A")
    double = replaced(re.escape(wrong + last), lambda t, k: 2.0 * t[k])
    lacking = changed(tmp_path / "g", tmp_path / "c", lambda t: without(re.escape(gone + first))(double(t)))
    assert tr.compare(tmp_path / "g", lacking, checkpoint=MODEL).first_failing == "gradient"


def test_a_step_on_other_samples_is_said_to_be(golden: Path, tmp_path: Path) -> None:
    def swapped(tensors: dict[str, Array]) -> dict[str, Array]:
        return {**tensors, "train/2/labels": np.roll(tensors["train/2/labels"], 1, axis=1)}

    report = tr.compare(golden, changed(golden, tmp_path / "c", swapped))
    assert "step 2: made on other samples" in noted(report, "gradient")

    def padded(tensors: dict[str, Array], name: str) -> Array:
        """Its rows in the other order, and wider."""
        return np.pad(tensors[name], ((0, 0), (0, 3)), constant_values=-100)[::-1]

    other = changed(golden, tmp_path / "d", replaced("train/2/labels", padded))
    assert "made on other samples" not in noted(tr.compare(golden, other), "gradient")


def test_the_first_step_is_judged_without_the_weights(golden: Path, tmp_path: Path) -> None:
    """B is 0 there: with A's rows in another order and of other signs, dL/dB has its columns so."""

    def turned(tensors: dict[str, Array], name: str) -> Array:
        return -tensors[name][::-1] if name.startswith("A/") else -tensors[name][:, ::-1]

    right = changed(golden, tmp_path / "c", replaced("A/.*|train/1/grad_B/.*", turned))
    findings = [f for f in tr.compare(golden, right).findings if f.stage == "gradient" and f.verdict]
    judged = {f.verdict.what for f in findings if f.verdict}
    assert {"dL/dB of step 1", "training loss of step 1"} <= judged
    assert all(f.status == "pass" for f in findings if f.module or "loss" in str(f.verdict))
    doubled = changed(golden, tmp_path / "d", replaced("train/1/grad_B/.*", lambda t, k: 2.0 * t[k]))
    wrong = tr.compare(golden, doubled)
    assert wrong.first_failing == "gradient" and wrong.cause == "the gradient is doubled"
    assert wrong.coverage["gradient"] == "part"
    off = changed(golden, tmp_path / "l", replaced("train/loss", lambda t, k: t[k] + np.array([0.1, 0.0])))
    assert tr.compare(golden, off).first_failing == "gradient"
    assert tr.compare(golden, golden).passed


def test_a_gradient_after_a_wrong_update_follows_from_it(golden: Path, tmp_path: Path) -> None:
    """An update comes before the next step's gradient; a gradient that is wrong before it is a mistake of its own."""

    def spoiled(*patterns: str) -> Change:
        return lambda t: {k: 2.0 * v if any(re.fullmatch(p, k) for p in patterns) else v for k, v in t.items()}

    after = changed(golden, tmp_path / "a", spoiled("train/1/exp_avg/.*", "train/2/grad_B/.*"))
    report = tr.compare(golden, after, checkpoint=MODEL)
    assert {f.stage for f in report.of("fail")} == {"adamw"} and "gradient" in {f.stage for f in report.of("cascade")}
    before = changed(golden, tmp_path / "b", spoiled("train/1/grad_B/.*", "train/2/exp_avg/.*"))
    assert tr.compare(golden, before, checkpoint=MODEL).first_failing == "gradient"


@pytest.mark.parity
def test_a_gradient_is_judged_at_the_candidates_own_B(tmp_path: Path) -> None:
    """A wrong AdamW drives B far from the golden one, where the network costs more: the gradient there is right."""
    pytest.importorskip("torch")
    from tests.oracle.adversary.population import MISTAKES, measured

    (mistake,) = (m for m in MISTAKES if m.name == "exp_avg_sq forgotten")
    (outcome,) = measured([mistake], ["float64"], tmp_path, ["with"])
    assert outcome.first_failing == "adamw"
    assert "gradient" not in outcome.failing
