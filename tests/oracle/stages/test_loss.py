"""The loss: logits are judged, and a causal model's loss follows from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.oracle.altered import changed, replaced
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.loss import judge_loss


@pytest.mark.parametrize(("name", "shifted"), [("llama", True), ("t5", False), ("llama-classifier", False)])
@pytest.mark.parametrize("weights", [True, False])
def test_logits_are_judged_and_a_shifted_loss_follows_from_them(
    name: str, shifted: bool, weights: bool, tmp_path: Path
) -> None:
    model, rng = tiny_model(name), np.random.default_rng(0)
    labels = [1, 2] if "classifier" in name else rng.integers(2, 31, (2, 5))
    data = [{"input_ids": rng.integers(2, 31, 5), "labels": label} for label in labels]
    tr.trace(model, data, tmp_path / "g", r_init=2, steps=1, stages=("calibration", "logits"))
    checkpoint = model if weights else None
    report = tr.compare(tmp_path / "g", tmp_path / "g", checkpoint=checkpoint)
    own = [f for f in report.findings if f.stage == "loss" and f.against == "own inputs" and f.verdict]
    assert report.passed and len(own) == (2 if shifted else 0)
    wrong = changed(tmp_path / "g", tmp_path / "c", replaced("sample/1/logits", lambda t, k: t[k] * 1.01))
    report = tr.compare(tmp_path / "g", wrong, checkpoint=checkpoint)
    assert not report.passed and report.first_failing == "loss"
    assert any("logits of sample 1" in finding.line() for finding in report.of("fail"))


def test_in_a_low_precision_what_is_kept_of_every_token_is_rounded_too() -> None:
    """Two tokens of two words, logits +-4: the loss is log(1 + e^8)."""
    logits, labels = np.array([[4.0, -4.0], [4.0, -4.0], [0.0, 0.0]]), np.array([0, 1, 1])
    loss, size = np.log1p(np.exp(8.0)), 4.0 + np.log(2.0) + 1.0
    sums = 6.0 * (2 * np.sqrt(2.0) + 4.0) * size  # of as many words and tokens
    for storage, accumulation, kept in ((2.0**-7, 0.0, 2.0**-8), (2.0**-7, 2.0**-7, 0.0)):
        precision = Precision("rough", np.dtype(np.float32), storage, 0.0, accumulation)
        most = sums * (accumulation + 2.0**-52) + storage * loss + kept * (size + loss)
        for off, passed in ((0.99 * most, True), (1.01 * most, False), (-1.01 * most, False)):
            rules = {"switches": PROFILES["paper"], "precision": precision}
            (verdict,) = judge_loss(loss + off, logits=logits, labels=labels, **rules)  # type: ignore[arg-type]
            assert verdict.passed is passed and verdict.allowed == pytest.approx(most, rel=1e-9)
