"""Planning from Python: what is counted is what is there; bad requests are refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama
from tlora_ref.planning import run
from tlora_ref.planning import time as planning_time


def test_counts_are_those_of_the_model_itself(tmp_path: Path) -> None:
    model = tiny_llama()
    tr.save_model(model, tmp_path / "model")
    memory = tr.plan_memory(tmp_path / "model", 3, ["q_proj", "down_proj"])
    assert memory.shapes == model.shapes(["q_proj", "down_proj"])
    assert memory.weights == sum(x.size for x in model.tensors.values())
    ranks = np.ones(len(memory.shapes))
    plan = tr.allocate(dict(zip(memory.shapes, ranks, strict=True)), memory.shapes, 3, 6.0)
    assert memory.lora_parameters == plan.lora_parameters and memory.budget == plan.budget == 12
    assert memory.frozen_A_parameters == plan.trainable_parameters
    assert memory.mean_scale(6.0) == pytest.approx(np.mean([plan.scale(m) for m in plan.rank]))
    assert memory.bytes("float32")["weights"] == sum(x.astype(np.float32).nbytes for x in model.tensors.values())


def test_a_model_of_large_layers_is_reckoned_by_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tr.save_model(tiny_llama(), tmp_path / "model")
    memory = tr.plan_memory(tmp_path / "model")
    monkeypatch.setattr(planning_time, "product_rate", lambda: 1e6)
    monkeypatch.setattr(run, "LAYER_WEIGHTS", 0)
    one, four = (tr.plan_run(memory, samples=8, tokens=10, workers=n) for n in (1, 4))
    assert not one.measured and one.steps is None and one.total_seconds is None
    assert one.seconds["calibration"] == pytest.approx(one.flop["calibration"] / 0.75e6)
    assert four.seconds["calibration"] == pytest.approx(one.seconds["calibration"] / 4)
    assert four.seconds["initialisation"] == one.seconds["initialisation"]
    twice = tr.plan_run(memory, samples=16, tokens=10, settings=tr.TrainSettings(batch_size=3, steps=7))
    assert twice.flop["calibration"] == 2 * one.flop["calibration"]
    attention = 30 * 12 * 10 * 16 * 2 / 0.75e6  # 3 rows of 10 tokens, 16 wide, 2 layers
    assert twice.seconds["step"] == pytest.approx(30 / 80 * one.seconds["calibration"] + attention)
    own = twice.seconds["calibration"] + twice.seconds["initialisation"]
    assert twice.total_seconds == pytest.approx(own + 7 * twice.seconds["step"])


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    tr.save_model(tiny_llama(), tmp_path / "model")
    with pytest.raises(tr.TLoRAError, match="rank is 0"):
        tr.plan_memory(tmp_path / "model", 0)
    with pytest.raises(tr.TLoRAError, match="no such"):
        tr.plan_memory(tmp_path / "absent")
    for name in ("samples", "tokens", "workers"):
        with pytest.raises(tr.TLoRAError, match=f"{name} is 0"):
            tr.plan_run(tr.plan_memory(tmp_path / "model"), **{name: 0})


def test_the_rate_is_that_of_a_product() -> None:
    x = np.ones((512, 1024), dtype=np.float32)
    W = np.ones((1024, 1024), dtype=np.float32)
    x @ W.T
    begin = time.perf_counter()
    for _ in range(5):
        x @ W.T
    own = 5 * 2 * 512 * 1024 * 1024 / (time.perf_counter() - begin)
    assert 0.1 < planning_time.product_rate(seconds=0.05) / own < 10
