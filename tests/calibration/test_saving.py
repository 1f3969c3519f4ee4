"""A calibration that is stopped anywhere, and goes on to the bits of one that was not."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.calibration import CalibrationStats
from tlora_ref.calibration.calibrate import add_samples
from tlora_ref.calibration.saving import FORMAT, held_back
from tlora_ref.errors import CheckpointError, ConfigError


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A process that was started in the background ignores Ctrl-C, and its tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def same_bits(one: CalibrationStats, other: CalibrationStats) -> bool:
    sums = one.covariance_sums.keys() == other.covariance_sums.keys() and all(
        np.array_equal(C, other.covariance_sums[m]) for m, C in one.covariance_sums.items()
    )
    return sums and one.losses == other.losses and one.sensitivity_sums == other.sensitivity_sums


def stopped_after(samples: int) -> Any:
    """Progress that ends the calibration once so many samples are in."""

    def progress(done: int, total: int) -> None:
        if done == samples:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("samples", [1, 3, 4, 6, 8, 9])
def test_a_calibration_stopped_anywhere_ends_in_the_same_bits(tmp_path: Path, samples: int) -> None:
    model, data, file = tiny_llama(), tiny_samples(9), tmp_path / "new" / "calibration.safetensors"
    whole = tr.calibrate(model, data, block_size=4)
    with pytest.raises(KeyboardInterrupt):
        tr.calibrate(model, data, block_size=4, kept=file, progress=stopped_after(samples))
    seen: list[int] = []
    resumed = tr.calibrate(
        model, data, block_size=4, kept=file, resume=True, progress=lambda done, _: seen.append(done)
    )
    assert same_bits(resumed, whole)
    assert len(seen) <= 9 - samples  # what was done is not done again
    assert same_bits(tr.calibrate(model, data, block_size=4, kept=file, resume=True), whole)  # it stays till it is used


def test_workers_go_on_with_what_one_process_began(tmp_path: Path) -> None:
    model, data, file = tiny_llama(), tiny_samples(9), tmp_path / "kept.safetensors"
    whole = tr.calibrate(model, data, block_size=2)
    with pytest.raises(KeyboardInterrupt):
        tr.calibrate(model, data, block_size=2, kept=file, progress=stopped_after(5))
    with ThreadPoolExecutor(2) as executor:
        options: dict[str, Any] = {"block_size": 2, "kept": file, "executor": executor, "resume": True}
        with pytest.raises(KeyboardInterrupt):
            tr.calibrate(model, data, progress=stopped_after(8), **options)
        assert same_bits(tr.calibrate(model, data, **options), whole)


def test_it_is_kept_by_the_clock_and_not_at_all_where_it_is_short(tmp_path: Path) -> None:
    model, data, file = tiny_llama(), tiny_samples(4), tmp_path / "kept.safetensors"
    tr.calibrate(model, data, kept=file)
    assert not file.exists()
    there: list[bool] = []
    tr.calibrate(model, data, kept=file, save_seconds=0, progress=lambda *_: there.append(file.exists()))
    assert there == [False, False, True, True] and file.exists()


def test_another_calibration_is_not_resumed(tmp_path: Path) -> None:
    model, data, file = tiny_llama(), tiny_samples(4), tmp_path / "kept.safetensors"
    with pytest.raises(CheckpointError, match="no calibration to resume"):
        tr.calibrate(model, data, kept=file, resume=True)
    tr.calibrate(model, data, kept=file, save_seconds=0)
    for other, samples, changes, match in (
        (tiny_llama(seed=5), data, {}, "model: then"),
        (model, tiny_samples(4, seed=8), {}, "samples_sha256"),
        (model, data, {"targets": "v_proj"}, "modules"),
        (model, data, {"profile": "released"}, "centre: then False, now True"),
        (model, data, {"block_size": 2}, "block_size: then 8, now 2"),
    ):
        with pytest.raises(ConfigError, match=match):
            tr.calibrate(other, samples, kept=file, resume=True, **changes)
    whole = file.read_bytes()
    for damage in (whole[:-1], whole[: len(whole) // 2], b"", whole.replace(b'\\"done\\"', b'\\"dune\\"')):
        file.write_bytes(damage)
        with pytest.raises(CheckpointError):
            tr.calibrate(model, data, kept=file, resume=True)
    save_file({"x": np.zeros(1)}, file, metadata={FORMAT: "[" * 100_000})
    with pytest.raises(CheckpointError, match="nested too deeply"):
        tr.calibrate(model, data, kept=file, resume=True)


def test_the_sums_are_never_left_half_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the midst of line 9 waits until the samples are in."""
    model, data = tiny_llama(), tiny_samples(2)
    whole = tr.calibrate(model, data)
    stats = CalibrationStats(0, model.shapes(), {}, {}, dict.fromkeys(model.shapes(), 0.0), model=model.digest())
    module = sys.modules[add_samples.__module__]
    line_9 = module._line_9
    calls: list[str] = []

    def interrupted(stats: CalibrationStats, module: str, passes: Any) -> None:
        calls.append(module)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        line_9(stats, module, passes)

    monkeypatch.setattr(module, "_line_9", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_samples(stats, model, data, 0)
    assert same_bits(stats, whole)


def test_signals_are_held_back_and_then_answered() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    reached = False
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert reached and [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    done: list[bool] = []

    def elsewhere() -> None:
        with held_back():
            done.append(True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [True]
