"""Merged weights, with the model and without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, Array, Change, changed, replaced, skipped, without
from tlora_ref.oracle.traces import Trace


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


@pytest.mark.parametrize("checkpoint", [None, MODEL])
def test_a_run_of_fewer_steps_that_merged_its_own_last_B_is_told_so(
    golden: Path, tmp_path: Path, checkpoint: tr.Model | None
) -> None:
    def merged(share: float) -> Change:
        """With B of the first of two steps, and no record of the second."""

        def change(t: dict[str, Array]) -> Mapping[str, Array]:
            made = {}
            for m in Trace(golden).modules("A"):
                B = share * t[f"train/1/B/{m}"] - t[f"train/2/B/{m}"]
                made[f"merged/{m}"] = t[f"merged/{m}"] + t[f"scale/{m}"] * B @ t[f"A/{m}"]
            return without("train/2/.*")({**t, **made})

        return change

    fewer = changed(golden, tmp_path / "fewer", merged(1.0))
    report = tr.compare(golden, fewer, checkpoint=checkpoint)
    if not Trace(golden).manifest.resolved().freeze_A:
        assert report.passed and "this run trains A too" in skipped(report, "merge")
        return
    cause = "its run made fewer steps than golden's 2: it is merged with its own last B, of step 1"
    assert report.first_failing == "merge" and report.cause == cause
    half = tr.compare(golden, changed(golden, tmp_path / "half", merged(0.5)), checkpoint=checkpoint)
    assert half.first_failing == "merge" and half.cause != cause  # no last B at all
    none = tr.compare(golden, changed(golden, tmp_path / "none", merged(0.0)), checkpoint=checkpoint)
    assert none.cause == "the adapter is not merged"
    said = json.loads((fewer / "manifest.json").read_text())
    (fewer / "manifest.json").write_text(json.dumps(said | {"train": said["train"] | {"steps": 1}}))
    assert tr.compare(golden, fewer, checkpoint=checkpoint).passed  # a shorter run that says that it is one
