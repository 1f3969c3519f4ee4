"""The whole method on a device that refuses every slip between host and device, for every family."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.gpu.standin import REAL, Counter, DeviceArray, FakeModule, Mixed, device
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.backend import get_device, to_numpy
from tlora_ref.errors import ConfigError, DeviceError
from tlora_ref.training.loop import apply_gradients, step_batches, step_gradients
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.training.state import TrainState

__all__ = ["device"]

standin_alone = pytest.mark.skipif(REAL, reason="tests the stand-in, or counts with it")


def samples_of(name: str) -> list[dict[str, Any]]:
    """Three samples that this model takes."""
    rows = tiny_samples(3, seed=1)
    if tiny_model(name).task_type == "SEQ_CLS":
        return [{"input_ids": row["input_ids"], "labels": i % 2} for i, row in enumerate(rows)]
    return rows


def close(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        size = max(1e-30, float(np.abs(value).max(initial=0.0)))
        assert np.abs(to_numpy(found[name]) - value).max(initial=0.0) <= tolerance * size, name


def whole_run(folder: Path, where: str, dtype: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Load, calibrate, allocate, initialise, train, evaluate, merge; what came of it, on the device still."""
    model = tr.load_model(folder, dtype, where)
    stats = tr.calibrate(model, samples)
    plan = tr.allocate(stats.sensitivity, stats.shapes, 2, 4.0)
    adapter = tr.initialize(model, stats, plan, seed=3)
    result = tr.train(model, adapter, samples, steps=2, batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0)
    loss = tr.evaluate(model, samples).loss
    model.detach()
    merged = model.merge(adapter)
    return {
        "covariance": {m: stats.covariance[m] for m in stats.shapes},
        "sensitivity": dict(stats.sensitivity),
        "rank": plan.rank,
        "projector": {m: A.T @ A for m, A in adapter.A.items()},
        "update": {m: (adapter.B[m] @ A) for m, A in adapter.A.items()},
        "merged": {m: merged.weight(m) for m in adapter.A},
        "shown": [repr(x).replace("on gpu", "on cpu") for x in (model, stats, plan, adapter)],
        "numbers": {"loss": loss, **{f"step {e['step']}": e["loss"] for e in result.history}},
    }


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_runs_through(name: str, tmp_path: Path, device: FakeModule) -> None:
    tr.save_model(tiny_model(name), tmp_path / "m")
    host = whole_run(tmp_path / "m", "cpu", "float64", samples_of(name))
    found = whole_run(tmp_path / "m", "gpu", "float64", samples_of(name))
    assert (found["rank"], found["shown"]) == (host["rank"], host["shown"])
    for quantity in ("covariance", "projector", "update", "merged"):
        assert all(isinstance(x, device.ndarray) for x in found[quantity].values())
        close(found[quantity], host[quantity], 1e-9)
    for quantity in ("sensitivity", "numbers"):
        assert found[quantity] == pytest.approx(host[quantity], rel=1e-10)


def test_float32_stays_float32_and_on_the_device(tmp_path: Path, device: FakeModule) -> None:
    tr.save_model(tiny_llama(), tmp_path / "m")
    found = whole_run(tmp_path / "m", "gpu", "float32", samples_of("llama"))
    for quantity in ("update", "merged", "projector"):
        assert {x.dtype for x in found[quantity].values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", [n for n in sorted(MODELS) if tiny_model(n).task_type != "SEQ_CLS"])
def test_generation_with_and_without_a_cache(name: str, tmp_path: Path, device: FakeModule) -> None:
    tr.save_model(tiny_model(name), tmp_path / "m")
    said = [
        tr.load_model(tmp_path / "m", "float64", where).generate([3, 4, 5], max_new_tokens=4, use_cache=cache).tolist()
        for where, cache in (("cpu", True), ("gpu", True), ("gpu", False))
    ]
    assert said[0] == said[1] == said[2]


def test_files_traces_and_comparison(tmp_path: Path, device: FakeModule) -> None:
    samples = tiny_samples(2, seed=5)
    tr.save_model(tiny_llama(), tmp_path / "m")
    host, there = (tr.load_model(tmp_path / "m", "float64", where) for where in ("cpu", "gpu"))
    for model, name in ((host, "golden"), (there, "found")):
        tr.trace(model, samples, tmp_path / name, r_init=2, alpha=3.0, steps=2)
    report = tr.compare(tmp_path / "golden", tmp_path / "found", checkpoint=host)
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    stats = tr.calibrate(there, samples)
    stats.save(tmp_path / "stats.safetensors")
    adapter = tr.initialize(there, stats, tr.allocate(stats.sensitivity, stats.shapes, 2, 3.0))
    tr.save_peft(adapter, tmp_path / "adapter")
    again = tr.load_peft(tmp_path / "adapter", "float64", "gpu")
    close(again.A, {m: to_numpy(A).astype(np.float32) for m, A in adapter.A.items()}, 1e-6)
    assert all(isinstance(A, device.ndarray) for A in again.A.values())
    tr.save_model(there.merge(adapter), tmp_path / "merged")
    close(tr.load_model(tmp_path / "merged").tensors, host.tensors, 1e-6)


def prepared(base: Any, samples: list[dict[str, Any]]) -> tuple[Any, Any, Any, Any]:
    """A model on the device with its adapter attached, the settings and the state before the first step."""
    put = get_device("gpu").put
    model = type(base)(base.config, {name: put(x) for name, x in base.tensors.items()})
    stats = tr.calibrate(model, samples)
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, stats.shapes, 2, 3.0))
    plan = tr.TrainSettings(batch_size=2, steps=3)
    state = TrainState.start(trained_arrays(model, adapter, plan))
    model.attach(adapter)
    return model, adapter, plan, state


@standin_alone
def test_a_step_waits_for_the_loss_alone(device: FakeModule) -> None:
    """Forward, backward and AdamW of every B: one transfer comes back to the host, the loss and the gradient's norm."""
    samples = tiny_samples(4)
    model, adapter, plan, state = prepared(tiny_llama(), samples)
    for (batch,) in step_batches(samples, plan, 0, 3, 0):
        before = Counter.waits
        found = step_gradients(model, state.arrays, [batch])
        state = apply_gradients(state, found, plan, 3)
        install(state.arrays, model, adapter)
        assert Counter.waits - before == 1


@standin_alone
@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_float64_is_made_in_a_float32_step(name: str, device: FakeModule) -> None:
    """Every array that a step makes, whichever operation makes it."""
    samples = samples_of(name)
    model, _, plan, state = prepared(tiny_model(name), samples)
    (batch,) = next(iter(step_batches(samples, plan, 0, 3, 0)))
    Counter.made = []
    apply_gradients(state, step_gradients(model, state.arrays, [batch]), plan, 3)
    kinds = {dtype for dtype, _ in Counter.made if dtype.kind == "f"}
    assert len(Counter.made) > 100 and kinds == {np.dtype(np.float32)}


@standin_alone
def test_training_never_holds_logits_of_the_whole_batch(device: FakeModule) -> None:
    """With 1200 scored tokens, no array of the vocabulary's width has more rows than a chunk of the loss."""
    vocabulary = 31
    samples = tiny_samples(2, length=(600, 601))
    model, _, plan, state = prepared(tiny_llama(max_position_embeddings=1024), samples)
    (batch,) = next(iter(step_batches(samples, plan, 0, 3, 0)))
    Counter.made = []
    step_gradients(model, state.arrays, [batch])
    rows = [int(np.prod(shape[:-1])) for _, shape in Counter.made if len(shape) >= 2 and shape[-1] == vocabulary]
    assert 64 <= max(rows) <= 256


# ---- the stand-in itself: every slip is caught ----


@standin_alone
@pytest.mark.parametrize(
    "slip",
    [
        lambda x, h: x + h,
        lambda x, h: h + x,
        lambda x, h: h @ x,
        lambda x, h: np.asarray(x),
        lambda x, h: np.exp(x),
        lambda x, h: np.sum(x),
        lambda x, h: np.concatenate([x, h]),
        lambda x, h: x[np.array([0, 1])],
        lambda x, h: x.__setitem__(0, h[0]),
        lambda x, h: x.__iadd__(h),
        lambda x, h: h.__iadd__(x),
        lambda x, h: h.__setitem__(0, x[0]),
    ],
)
def test_mixing_is_caught(slip: Callable[[Any, Any], Any], device: FakeModule) -> None:
    host = np.ones((2, 2))
    with pytest.raises((Mixed, TypeError, ValueError)):
        slip(get_device("gpu").put(host), host)


@standin_alone
@pytest.mark.parametrize("name", ["block", "nditer", "errstate"])
def test_what_cupy_lacks_is_not_there(name: str, device: FakeModule) -> None:
    with pytest.raises(AttributeError, match="CuPy has no"):
        getattr(device, name)


@standin_alone
def test_options_that_cupy_lacks_are_refused(device: FakeModule) -> None:
    x = get_device("gpu").put(np.ones(3))
    with pytest.raises(TypeError, match="no option initial"):
        x.max(initial=0.0)
    with pytest.raises(TypeError, match="no option where"):
        device.sum(x, where=x > 0)


@standin_alone
def test_errors_name_what_is_missing(tmp_path: Path, device: FakeModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """No silent way back to the CPU: neither without a device, nor without CuPy, nor for a name that is neither."""
    tr.save_model(tiny_llama(), tmp_path / "m")
    device.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(DeviceError, match="no CUDA device"):
        tr.load_model(tmp_path / "m", device="gpu")

    def broken() -> int:
        raise RuntimeError("driver too old")

    device.cuda.runtime.getDeviceCount = broken
    with pytest.raises(DeviceError, match="driver too old"):
        get_device("gpu")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"pip install 'tlora-ref\[cuda13x\]' or 'tlora-ref\[cuda12x\]'"):
        get_device("gpu")
    with pytest.raises(DeviceError, match='"cuda" is unknown'):
        get_device("cuda")


@standin_alone
def test_workers_do_not_take_a_device_s_model_to_the_cpu(tmp_path: Path, device: FakeModule) -> None:
    tr.save_model(tiny_llama(), tmp_path / "m")
    model = tr.load_model(tmp_path / "m", device="gpu")
    with ThreadPoolExecutor(1) as executor, pytest.raises(ConfigError, match="workers compute on the CPU"):
        tr.calibrate(model, tiny_samples(2), executor=executor)


@standin_alone
def test_a_function_of_the_method_given_a_host_array_fails(device: FakeModule) -> None:
    from tlora_ref.method import low_rank

    x, W, A, B = (np.ones(shape) for shape in ((2, 3), (4, 3), (1, 3), (4, 1)))
    put = get_device("gpu").put
    assert isinstance(low_rank.adapted_output(put(x), put(W), put(A), put(B), 1.0), DeviceArray)
    with pytest.raises((Mixed, TypeError)):
        low_rank.adapted_output(put(x), put(W), A, put(B), 1.0)


@standin_alone
def test_waiting_is_counted(device: FakeModule) -> None:
    x = get_device("gpu").put(np.ones(3))
    total = x.sum()
    assert Counter.waits == 0
    float(total), bool(total), total.item(), to_numpy(x)
    assert Counter.waits == 4
