"""The recorder filled in by hand: names, shapes and scalars, without any framework; and a run in JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import ConfigError, ShapeError
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.recorder import Recorder
from tlora_ref.oracle.recorder.foreign import adapters_of
from tlora_ref.oracle.traces import Manifest, Trace, TraceWriter

MODEL, SAMPLES = tiny_llama(seed=3), tiny_samples(3, seed=4)
MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "trace"
    tr.trace(MODEL, SAMPLES, folder, r_init=2, alpha=3.0, steps=2)
    return folder


def test_samples_and_batches_are_what_a_model_takes(golden: Path) -> None:
    recorder = Recorder(golden)
    for sample, given in zip(recorder.samples(), SAMPLES, strict=True):
        assert sample["input_ids"].tolist() == [given["input_ids"]] and sample["labels"].tolist() == [given["labels"]]
        sample["labels"][:] = 0  # writable, and a copy
    for (step, lr, batch), expected in zip(recorder.batches(), (1, 2), strict=True):
        assert step == expected and lr == 1e-2 and set(batch) == {"input_ids", "labels", "attention_mask"}
        assert batch["labels"].ndim == 2 and batch["labels"].dtype == np.int64
    assert (next(recorder.samples())["labels"] == SAMPLES[0]["labels"]).all()


def test_what_is_told_is_checked(golden: Path, tmp_path: Path) -> None:
    recorder = Recorder(golden)
    with pytest.raises(ConfigError, match="say in which precision"):
        recorder.write(tmp_path / "c")
    with pytest.raises(ConfigError, match="none of the golden trace's modules"):
        recorder.add(covariance={"model.layers.9.q_proj": np.eye(16)})
    with pytest.raises(ConfigError, match="C unknown: expected covariance"):
        recorder.add(C={MODULE: np.eye(16)})
    with pytest.raises(ConfigError, match="moments unknown: expected grad_B"):
        recorder.step(1, moments={})
    with pytest.raises(ShapeError, match="expected"):
        recorder.add(covariance={MODULE: np.eye(15)})
    with pytest.raises(ConfigError, match='dtype "float8" is unknown'):
        Recorder(golden, "float8")


def test_prefixes_of_wrappers_and_numbers_in_arrays(golden: Path, tmp_path: Path) -> None:
    recorder = Recorder(golden, "float32")
    recorder.add(sensitivity={f"base_model.model.{MODULE}": np.array([0.5])})
    with pytest.raises(ConfigError, match="recorded twice"):
        recorder.add(sensitivity={MODULE: 0.5})
    for t, loss in ((1, 4.0), (2, [3.0])):
        recorder.step(t, loss=loss, lr=0.01)
    recorder.write(tmp_path / "c")
    trace = Trace(tmp_path / "c")
    assert trace.get(f"sensitivity/{MODULE}") == 0.5 and trace.get("train/loss").tolist() == [4.0, 3.0]
    gold = Trace(golden).manifest
    same = ("modules", "r_init", "alpha", "switches", "train", "samples")
    assert all(getattr(trace.manifest, name) == getattr(gold, name) for name in same)
    assert trace.manifest.dtype == "float32"


def test_alpha_as_frameworks_have_it_makes_the_scale(golden: Path, tmp_path: Path) -> None:
    recorder = Recorder(golden, "float32")
    recorder.add(rank={MODULE: 4}, lora_alpha={f"base_model.model.{MODULE}": np.array([6.0])})
    assert recorder.writer.tensors[f"alpha/{MODULE}"] == 6.0 and recorder.writer.tensors[f"scale/{MODULE}"] == 1.5
    other = MODULE.replace("q_proj", "k_proj")
    for ranks in ({}, {other: 0}):
        with pytest.raises(ConfigError, match=f"lora_alpha of {other} is 6, but no rank"):
            recorder.add(rank=ranks, lora_alpha={other: 6.0})


def test_a_candidate_without_the_recorder(golden: Path, tmp_path: Path) -> None:
    """The samples and batches are the trace's own; a manifest like the golden one is held to the same run."""
    gold = Trace(golden)
    assert [s["input_ids"].tolist() for s in gold.samples()] == [[s["input_ids"]] for s in SAMPLES]
    steps = [(t, lr, batch["input_ids"].shape[0]) for t, lr, batch in gold.batches()]
    assert steps == [(1, 1e-2, 1), (2, 1e-2, 1)]
    writer = TraceWriter(Manifest.like(gold.manifest, dtype="float32", versions={"mine": "1"}))
    for module, value in ((m, gold.get(f"sensitivity/{m}")) for m in gold.shapes):
        writer.add(f"sensitivity/{module}", value)
    writer.write(tmp_path / "c")
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL, require=["sensitivity"])
    assert report.passed and report.about["candidate"]["versions"] == {"mine": "1"}
    writer.manifest.modules[0]["d_in"] = 1
    assert gold.manifest.modules[0]["d_in"] != 1  # a copy, all the way down


class Lora:
    """What an adapted module looks like, of any framework."""

    def __init__(self, A: Any, B: Any, scaling: Any, **more: Any) -> None:
        self.lora_A, self.lora_B, self.scaling = A, B, scaling
        vars(self).update(more)


def test_adapters_are_known_by_what_they_have() -> None:
    A, B = np.ones((2, 4)), np.zeros((3, 2))
    named = {"x": {"one": A, "two": -A}, "y": {"one": B, "two": -B}}
    bare = adapters_of({"m": Lora(A, B, 0.5), "n": object()})
    assert list(bare) == ["m"] and bare["m"].A is A and bare["m"].scale == 0.5
    many = Lora(named["x"], named["y"], {"one": 1.0, "two": 2.0}, active_adapters=["two"])
    assert adapters_of({"m": many})["m"].scale == 2.0 and (adapters_of({"m": many})["m"].A == -A).all()
    both = Lora(named["x"], named["y"], {"one": 1.0, "two": 2.0}, active_adapters=["one", "two"])
    with pytest.raises(ConfigError, match="2 adapters are active"):
        adapters_of({"m": both})
    with pytest.raises(ConfigError, match="none of the golden trace's modules has lora_A"):
        adapters_of({"m": object()})


def test_a_run_in_jax_is_recorded_by_hand_and_right(golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from tests.oracle.recorder import jax_run

    recorder = Recorder(golden, "float32")
    jax_run.record(recorder, MODEL.tensors, MODEL.config)
    recorder.write(tmp_path / "c")
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL)
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    assert {finding.stage for finding in report.of("pass")} == set(ORDER)
