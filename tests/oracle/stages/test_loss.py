"""The loss: logits are judged, and a causal model's loss follows from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.oracle.altered import changed, replaced


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
