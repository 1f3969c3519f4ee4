"""Lines 4 to 11 of Algorithm 1: against finite differences, recorded inputs, and what the paper implies."""

from __future__ import annotations

import gc
import json
import os
import signal
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.calibration import CalibrationStats, add_samples, calibration_memory
from tlora_ref.errors import CheckpointError, ConfigError, DataError, DeviceError, NumericsError, OutputError
from tlora_ref.transformer import Model


def test_sensitivity_is_the_mean_over_samples_of_the_absolute_product_by_finite_differences() -> None:
    model, samples = tiny_llama(), tiny_samples(3)
    module = "model.layers.1.self_attn.v_proj"
    stats = tr.calibrate(model, samples, targets=module)
    W = model.tensors[f"{module}.weight"]
    total = np.zeros_like(W)
    for sample in samples:
        slope = np.empty_like(W)
        for index in np.ndindex(*W.shape):
            kept, ends = W[index], []
            for step in (1e-5, -1e-5):
                W[index] = kept + step
                ends.append(model(**sample).loss.item())
            W[index] = kept
            slope[index] = (ends[0] - ends[1]) / 2e-5
        total += np.abs(W * slope) / len(samples)
    assert stats.sensitivity[module] == pytest.approx(total.mean(), rel=1e-7)


def test_covariance_is_the_uncentred_sum_of_the_inputs_of_each_module() -> None:
    model, samples = tiny_llama(), tiny_samples(4)
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in model.shapes()}
    spy = model.observing(
        lambda name, x: inputs[name].append(x.reshape(-1, x.shape[-1]).copy()) if name in inputs else None
    )
    for sample in samples:
        spy(**sample)
    paper, released = tr.calibrate(model, samples), tr.calibrate(model, samples, profile="released")
    for name, rows in inputs.items():
        by_hand = sum(np.einsum("ti,tj->ij", X, X) for X in rows) / len(samples)
        np.testing.assert_allclose(paper.covariance[name], by_hand, rtol=1e-12, atol=1e-12 * np.abs(by_hand).max())
        spread = sum(len(X) * np.cov(X, rowvar=False, bias=True) for X in rows) / len(samples)
        np.testing.assert_allclose(released.covariance[name], spread, rtol=1e-10, atol=1e-12 * np.abs(by_hand).max())


def test_modules_that_share_an_input_share_one_sum() -> None:
    stats = tr.calibrate(tiny_llama(), tiny_samples(2))
    layer = "model.layers.0"
    qkv = {stats.leader[f"{layer}.self_attn.{p}_proj"] for p in "qkv"}
    mlp = {stats.leader[f"{layer}.mlp.{p}_proj"] for p in ("gate", "up")}
    assert len(qkv) == len(mlp) == 1
    assert len(stats.covariance_sums) == 2 * 4  # a layer: qkv, o, gate and up, down
    widths = [C.shape[0] for C in stats.covariance_sums.values()]
    predicted = calibration_memory(tiny_llama(), tiny_samples(2))
    assert predicted == 2 * 8 * sum(w * w for w in widths)


def test_merging_shards_equals_the_whole_to_rounding() -> None:
    model, samples = tiny_llama(), tiny_samples(7)
    whole = tr.calibrate(model, samples)
    merged = tr.calibrate(model, samples[:3]).merge(tr.calibrate(model, samples[3:]))
    assert merged.samples == whole.samples == 7
    assert merged.losses == whole.losses
    for name in whole.shapes:
        np.testing.assert_allclose(merged.covariance[name], whole.covariance[name], rtol=1e-13, atol=1e-12)
        assert merged.sensitivity[name] == pytest.approx(whole.sensitivity[name], rel=1e-13)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_gives_the_same_bits_whatever_the_number_of_workers(pool: type) -> None:
    model, samples = tiny_llama(), tiny_samples(7)
    serial = tr.calibrate(model, samples, block_size=2)
    with pool(max_workers=2) as executor:
        parallel = tr.calibrate(model, samples, block_size=2, executor=executor)
    assert parallel.sensitivity == serial.sensitivity
    assert parallel.losses == serial.losses
    for name in serial.shapes:
        assert np.array_equal(parallel.covariance[name], serial.covariance[name])


def test_workers_share_a_folder_and_leave_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = tiny_llama(), tiny_samples(5)
    seen: list[list[str]] = []
    load = CalibrationStats.load

    def watched(path: Path) -> CalibrationStats:
        seen.append(sorted(p.name for p in path.parent.glob("*.safetensors")))
        return load(path)

    monkeypatch.setattr(CalibrationStats, "load", watched)
    with ThreadPoolExecutor(1) as executor:
        tr.calibrate(model, samples, block_size=2, executor=executor, scratch=tmp_path)
        assert len(seen) == 3 and all("weights.safetensors" in names for names in seen)
        assert not any("0.safetensors" in names for names in seen[1:]), "a file was read and stayed"
        with pytest.raises(DataError, match='sample 5 has no "labels"'):
            tr.calibrate(model, [*samples, {"input_ids": [1]}], block_size=2, executor=executor, scratch=tmp_path)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(OutputError, match="absent"):
            tr.calibrate(model, samples, executor=executor, scratch=tmp_path / "absent")


class Elsewhere(ThreadPoolExecutor):
    """A worker on a machine with other folders."""

    def submit(self, work: Any, *arguments: Any) -> Any:  # type: ignore[override]
        return super().submit(partial(work.func, "/elsewhere", *work.args[1:]), *arguments)


def test_a_worker_that_does_not_see_the_folder_says_so() -> None:
    with Elsewhere() as executor, pytest.raises(DeviceError, match=r"does not see .*give `scratch`"):
        tr.calibrate(tiny_llama(), tiny_samples(2), executor=executor)


def test_nothing_of_a_sample_outlives_it() -> None:
    model = tiny_llama()
    kept: list[weakref.ref[np.ndarray]] = []
    original = model.observing(lambda name, x: kept.append(weakref.ref(x)))
    stats = CalibrationStats(0, model.shapes(), {}, {}, dict.fromkeys(model.shapes(), 0.0))
    add_samples(stats, _Chained(original), tiny_samples(1), 0)  # type: ignore[arg-type]
    gc.collect()
    assert kept
    assert all(ref() is None for ref in kept)


class _Chained:
    """A model whose own observer stays on beside the one that calibration sets."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self.model, name)

    def watching(self, names):  # type: ignore[no-untyped-def]
        view, mine = self.model.watching(names), self.model._observer

        class Both:
            def observing(self, theirs):  # type: ignore[no-untyped-def]
                return view.observing(lambda name, x: (mine(name, x), theirs(name, x)))

        return Both()


def test_statistics_survive_the_disk(tmp_path: Path) -> None:
    stats = tr.calibrate(tiny_llama(), tiny_samples(3), profile="released")
    stats.save(tmp_path / "stats.safetensors")
    again = CalibrationStats.load(tmp_path / "stats.safetensors")
    assert (again.samples, again.shapes, again.leader, again.losses) == (3, stats.shapes, stats.leader, stats.losses)
    assert (again.profile, again.centre, again.sensitivity) == ("released", True, stats.sensitivity)
    assert list(again.shapes) == list(stats.shapes)
    for name in stats.shapes:
        assert np.array_equal(again.covariance[name], stats.covariance[name])
    assert [p.name for p in tmp_path.iterdir()] == ["stats.safetensors"]


def test_bad_statistics_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        CalibrationStats.load(path)
    tr.calibrate(tiny_llama(), tiny_samples(1)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        CalibrationStats.load(path)
    path.write_bytes(whole.replace(b"tlora_ref.calibration", b"tlora_ref.calibratioM"))
    with pytest.raises(CheckpointError, match="expected calibration statistics"):
        CalibrationStats.load(path)
    with pytest.raises(OutputError):
        tr.calibrate(tiny_llama(), tiny_samples(1)).save(tmp_path / "absent" / "stats.safetensors")


def test_merging_what_does_not_belong_together_is_refused() -> None:
    one = tr.calibrate(tiny_llama(), tiny_samples(1))
    with pytest.raises(ConfigError, match="profile"):
        one.merge(tr.calibrate(tiny_llama(), tiny_samples(1), profile="released"))
    with pytest.raises(ConfigError, match="modules"):
        one.merge(tr.calibrate(tiny_llama(), tiny_samples(1), targets="q_proj"))


def test_bad_samples_are_named() -> None:
    model = tiny_llama()
    with pytest.raises(DataError, match="no calibration samples"):
        tr.calibrate(model, [])
    with pytest.raises(DataError, match='sample 1 has no "labels"'):
        tr.calibrate(model, [tiny_samples(1)[0], {"input_ids": [1, 2]}])
    with pytest.raises(DataError, match="outside the model's vocabulary"):
        tr.calibrate(model, [{"input_ids": [1, 99], "labels": [1, 99]}])
    broken = tiny_llama()
    broken.tensors["model.norm.weight"] = np.full(16, np.inf)
    with np.errstate(invalid="ignore"), pytest.raises(NumericsError, match="sample 0"):
        tr.calibrate(broken, tiny_samples(1))
    model.attach(
        tr.initialize(model, None, tr.allocate(dict.fromkeys(model.shapes(), 1.0), model.shapes()), init="random")
    )
    with pytest.raises(ConfigError, match="detach"):
        tr.calibrate(model, tiny_samples(1))


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    tr.calibrate(tiny_llama(), tiny_samples(3), block_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert json.dumps(seen)  # plain integers


class Dies:
    """A sample that takes its process with it."""

    def __getitem__(self, name: str) -> Any:
        os._exit(9)

    def __contains__(self, name: str) -> bool:
        return True


def test_a_worker_that_dies_is_a_named_error() -> None:
    with ProcessPoolExecutor(max_workers=1) as executor, pytest.raises(DeviceError, match="a calibration worker died"):
        tr.calibrate(tiny_llama(), [*tiny_samples(2), Dies()], block_size=1, executor=executor)  # type: ignore[list-item]


def test_a_dask_cluster_gives_the_same_bits_and_loses_nothing_with_a_worker() -> None:
    distributed = pytest.importorskip("distributed")
    model, samples = tiny_llama(), tiny_samples(8)
    serial = tr.calibrate(model, samples, block_size=1)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        killed: list[int] = []

        def kill_one(done: int, total: int) -> None:
            if not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        parallel = tr.calibrate(
            model, samples, block_size=1, executor=client.get_executor(retries=2), progress=kill_one
        )
    assert killed and parallel.losses == serial.losses and parallel.sensitivity == serial.sensitivity
    for name in serial.shapes:
        assert np.array_equal(parallel.covariance[name], serial.covariance[name])
