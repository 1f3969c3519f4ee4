"""An adapter made a few layers at a time has the bits of one that is made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.calibration import CalibrationStats
from tlora_ref.errors import NumericsError, OutputError
from tlora_ref.pipeline.in_parts import parts_of


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("init", ["wc-svd", "random"])
def test_the_same_bits(layers: int, init: str, tmp_path: Path) -> None:
    model, samples = tiny_llama(num_hidden_layers=3), tiny_samples(4)
    settings = tr.AdapterSettings(rank=2, samples=3, init=init, switches=tr.PROFILES["paper"])
    stats, indices = tr.calibrate_for(settings, model, samples)
    at_once = tr.make_adapter(settings, model, stats)
    told: list[tuple[int, int]] = []
    adapter, drawn = tr.adapter_in_parts(
        settings, model, samples, layers, tmp_path / "out", progress=lambda *done: told.append(done)
    )
    assert drawn == indices and adapter.plan == at_once.plan and not list(tmp_path.iterdir())
    for name in ("A", "B", "scale", "sigma"):
        ours, theirs = getattr(adapter, name), getattr(at_once, name)
        assert list(ours) == list(theirs) and all(np.array_equal(ours[m], theirs[m]) for m in theirs)
    parts = -(-3 // layers)
    assert told[-1] == (3 * parts, 3 * parts) and [done for done, _ in told] == list(range(1, 3 * parts + 1))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_parts_have_each_module_once_and_no_layer_is_cut(name: str) -> None:
    modules = list(tiny_model(name).shapes(".*"))
    parts = parts_of(modules, 1)
    assert sorted(m for part in parts for m in part) == sorted(modules)
    numbers = [{m.split(".layers.")[1].split(".")[0] for m in part if ".layers." in m} for part in parts]
    assert all(len(found) <= 1 for found in numbers)
    assert parts_of(modules, 1000) == [[m for part in parts for m in part]]


def test_memory_is_that_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statistics hold more than the layers of a part, and nothing is left where it fails."""
    most: list[int] = []
    save = CalibrationStats.save

    def watched(self: CalibrationStats, path: Path) -> None:
        most.append(len(self.covariance_sums))
        save(self, path)

    monkeypatch.setattr(CalibrationStats, "save", watched)
    model, settings = tiny_llama(num_hidden_layers=3), tr.AdapterSettings(rank=2, samples=2)
    tr.adapter_in_parts(settings, model, tiny_samples(2), 1, tmp_path / "out")
    assert most == [4, 4, 4]  # q, k and v share one, gate and up another
    model.tensors["model.norm.weight"] = model.tensors["model.norm.weight"] * np.nan
    with pytest.raises(NumericsError):
        tr.adapter_in_parts(settings, model, tiny_samples(2), 1, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="statistics cannot be kept"):
        tr.adapter_in_parts(settings, tiny_llama(), tiny_samples(2), 1, tmp_path / "file" / "out")
