"""A summary of a folder, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples


def test_an_adapter_and_the_history_beside_it(tmp_path: Path) -> None:
    model = tiny_llama()
    stats = tr.calibrate(model, tiny_samples(3))
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 4.0))
    result = tr.train(model, adapter, tiny_samples(4), steps=2, batch_size=2)
    tr.save_peft(adapter, tmp_path / "run" / "adapter")
    (tmp_path / "run" / "history.jsonl").write_text("\n".join(map(json.dumps, result.history)))
    found = tr.summarize(tmp_path / "run")
    assert found.kind == "a training run" and [entry["loss"] for entry in found.losses] == [
        entry["loss"] for entry in result.history
    ]
    assert list(found.modules) == list(model.shapes()) and found.said["alpha"] == "4"
    for m in adapter.modules:
        moved = float(np.linalg.norm(adapter.scale[m] * adapter.B[m] @ adapter.A[m]))
        assert found.modules[m].update == pytest.approx(moved, rel=1e-6)  # the file holds float32
        assert found.modules[m].sensitivity == stats.sensitivity[m]
    with pytest.raises(tr.TLoRAError, match="neither a trace"):
        tr.summarize(tmp_path)
