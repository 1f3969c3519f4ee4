"""What a study would take: the parts of its estimate, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tlora_ref as tr
from tests.study.conftest import declare
from tlora_ref.study import cost, work_of


def test_the_estimate_is_steps_and_held_out_rows_and_each_calibration_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(
        _memory: Any, train: Any, held_out: Any, *, samples: int, settings: tr.TrainSettings, dtype: str
    ) -> Any:
        took = {"step": 10.0 * settings.batch_size, "evaluation": 5.0 * len(held_out)}
        return SimpleNamespace(seconds={**took, "calibration": 15.0 * samples, "initialisation": 7.0})

    monkeypatch.setattr(cost, "plan_run", planned)
    cost._costs.cache_clear()
    study = tr.load_study(declare(place, variants=["LoRA", "TLoRA", "+SA", "W-SVD"], seeds=[1, 2]))
    # two steps of two rows, and two rows of valid and three of test, half as long each
    training = 2 * 20.0 + 5 * 10.0 / 2
    # by TLoRA and +SA of a seed together: six samples
    calibrations = 2 * 6 * 15.0
    work = work_of(study)
    assert work.seconds == pytest.approx(8 * training + 2 * 7.0 + calibrations) and not work.measured
    cost._costs.cache_clear()


def test_of_the_real_thing_every_part_is_there(place: Path) -> None:
    parts = cost._costs(place / "model", tr.load_study(place / "study.yaml").tasks["words"], "float32", 2, 2, 2)
    assert all(0 < part < 10 for part in parts)
