"""A golden trace that holds the target weights: what needs them is judged without the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import EVERYTHING, MODEL, SAMPLES, SETTINGS, changed, replaced
from tlora_ref.errors import CheckpointError


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "golden"
    tr.trace(MODEL, SAMPLES, folder, stages=(*EVERYTHING, "weights"), r_init=2, steps=2, settings=SETTINGS)
    return folder


def test_every_stage_but_the_gradient_is_judged_in_full(heavy: Path) -> None:
    report = tr.compare(heavy, heavy)
    assert report.passed and {s for s, how in report.coverage.items() if how != "full"} <= {"loss", "gradient"}


def test_a_rotated_A_is_wrong_without_the_checkpoint(heavy: Path, tmp_path: Path) -> None:
    turned = replaced(r"A/.*", lambda tensors, name: np.roll(tensors[name], 1, axis=1))
    report = tr.compare(heavy, changed(heavy, tmp_path / "c", turned))
    assert report.first_failing == "A" and {f.against for f in report.of("fail")} >= {"own inputs"}


def test_other_weights_are_refused_and_rounded_ones_are_not(heavy: Path, tmp_path: Path) -> None:
    other = changed(heavy, tmp_path / "c", replaced(r"weight/.*", lambda tensors, name: tensors[name] * 1.01))
    with pytest.raises(CheckpointError, match="recorded on other weights"):
        tr.compare(heavy, other)
    rounded = changed(
        heavy, tmp_path / "d", replaced(r"weight/.*", lambda tensors, name: tensors[name].astype(np.float32))
    )
    assert tr.compare(heavy, rounded, dtype="float32").passed
