"""What is planned of training: its arithmetic, by measurements that are set; and that a plan is what then happens."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama
from tlora_ref.planning import training

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny-math-llama"


def test_a_layer_is_the_difference_of_two_depths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(num_hidden_layers=9)
    tr.save_model(model, tmp_path / "model")
    memory = tr.plan_memory(tmp_path / "model", 2)

    def measured(_memory: Any, depth: int, part: Any, _dtype: str) -> tuple[float, float, float]:
        rows = part.rows * part.tokens
        return rows * (5.0 + 2.0 * depth), 0.1 * depth, rows * (100.0 + 10.0 * depth)

    monkeypatch.setattr(training, "_measured", measured)
    monkeypatch.setattr(training, "STEP_SECONDS", 0.0)  # no step is short enough to be done whole
    found = tr.plan_training(memory, tokens=40, batch_size=6, grad_accumulation=3, steps=4)
    assert found.step_seconds == pytest.approx(3 * 6 * 40 * (5.0 + 2.0 * 9) + 0.1 * 9)
    assert found.seconds == pytest.approx(4 * found.step_seconds) and found.measured
    taken = memory.bytes("float32")
    known = taken["weights"] + taken["adapter"] + 3 * taken["adamw_moments"]
    assert 0 < found.peak_bytes - known - 6 * 40 * (100 + 10 * 9) < 4e9  # the process itself
    monkeypatch.setattr(training, "MEASURED_WEIGHTS", 0)
    assert not tr.plan_training(memory, tokens=40, batch_size=6).measured


def test_padding_counts() -> None:
    assert tr.padded_tokens([3, 3, 3, 3], 2, seed=1) == 3
    assert tr.padded_tokens([2, 10], 2, seed=1) == 10 and tr.mean_tokens([2, 10]) == 6
    with pytest.raises(tr.TLoRAError, match="batch_size is 0"):
        tr.plan_training(tr.plan_memory(SHIPPED), batch_size=0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_is_planned_or_says_why_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPEATED", 1e-9)
    tr.save_model(tiny_model(name), tmp_path / "model")
    memory = tr.plan_memory(tmp_path / "model", 2)
    if memory.family.task_type == tr.Model.task_type:
        with pytest.raises(tr.TLoRAError, match="bare encoder"):
            tr.plan_training(memory, tokens=8, batch_size=2)
        return
    found = tr.plan_training(memory, tokens=8, batch_size=2, steps=3)
    assert found.step_seconds > 0 and found.seconds == 3 * found.step_seconds


def test_a_step_takes_about_what_was_planned() -> None:
    """Loosely, as the machine may be busy; figures of a quiet one are in the planning room's README."""
    memory = tr.plan_memory(SHIPPED)
    planned = tr.plan_training(memory, tokens=48, batch_size=8)
    model = tr.load_model(SHIPPED, "float32")
    samples = [{"input_ids": list(range(2, 50)), "labels": list(range(2, 50))}] * 8
    stats = tr.calibrate(model, samples[:2])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 8, 8))
    times: list[float] = []
    tr.train(model, adapter, samples, steps=8, on_step=lambda _: times.append(time.perf_counter()))
    steps = sorted(after - before for before, after in itertools.pairwise(times))
    assert 0.2 < planned.step_seconds / steps[len(steps) // 2] < 5
