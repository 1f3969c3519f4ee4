"""Merged weights, with the model and without."""

from __future__ import annotations

from pathlib import Path

import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, changed, replaced, skipped, without


@pytest.mark.parametrize("checkpoint", [None, MODEL])
def test_merged_weights_of_a_run_without_training_are_the_frozen_ones(
    tmp_path: Path, checkpoint: tr.Model | None
) -> None:
    stages = ("calibration", "allocation", "initialization", "merge")
    tr.trace(MODEL, SAMPLES, tmp_path / "g", r_init=2, stages=stages)
    report = tr.compare(tmp_path / "g", tmp_path / "g", checkpoint=checkpoint)
    assert report.passed and [f for f in report.of("pass") if f.stage == "merge"]
    wrong = changed(tmp_path / "g", tmp_path / "c", replaced("merged/.*", lambda t, k: t[k] * 1.001))
    assert tr.compare(tmp_path / "g", wrong, checkpoint=checkpoint).first_failing == "merge"


def test_merged_weights_are_judged_without_the_model_where_the_golden_trace_allows(
    golden: Path, tmp_path: Path
) -> None:
    doubled = changed(golden, tmp_path / "c", replaced("merged/.*", lambda t, k: t[k] + 1e-3))
    assert tr.compare(golden, doubled).first_failing == "merge"
    unknown = changed(golden, tmp_path / "g", without("train/2/B/.*"))
    assert "give --checkpoint" in skipped(tr.compare(unknown, golden), "merge")
