"""Several samples in one row: what the model gives, what a step gives, and what a run gives are as with a row each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.common import CONFIGS, made, tiny, tiny_classifier
from tests.families.encoders import bare
from tests.families.make_tiny import T5
from tests.training.test_training import bits, prepared
from tlora_ref.data import halves, pack_batch, pad_batch
from tlora_ref.errors import ConfigError, DataError, ShapeError, TLoRAError
from tlora_ref.training import TrainSettings, loop
from tlora_ref.training.loop import step_gradients
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.transformer import Model

#: Longer than a block of queries (128), so that packed rows have keys that are never touched; none beyond 16 tokens.
LENGTHS = (16, 3, 9, 16, 2, 12, 7, 16, 1, 14, 16, 5, 16, 11, 8, 4)
ROW = 140
PACKED = [kind for kind in CONFIGS if kind != "lfm2"]


def samples(lengths: tuple[int, ...] = LENGTHS, seed: int = 5) -> list[dict[str, Any]]:
    """Random samples, scored from the second or third token on."""
    rng = np.random.default_rng(seed)
    found = []
    for n in lengths:
        ids = rng.integers(1, 31, n).tolist()
        found.append({"input_ids": ids, "labels": [-100] * (n % 2 + 1) + ids[n % 2 + 1 :] if n > 2 else list(ids)})
    return found


def apart(batch: dict[str, np.ndarray], values: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """What `values` say of every sample of a packed batch, by its tokens."""
    ids, numbers = batch["input_ids"], batch["segments"]
    picks = [(row, numbers[row] == n) for row in range(len(ids)) for n in range(1, numbers[row].max() + 1)]
    return {tuple(ids[row][own].tolist()): values[row][own] for row, own in picks}


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_sample_has_the_logits_that_it_has_alone(kind: str) -> None:
    model, data = tiny(kind), samples()
    batch = pack_batch(data, ROW)
    assert batch["input_ids"].shape == (2, ROW) and (batch["segments"] == 0).any()
    logits = apart(batch, model(batch["input_ids"], segments=batch["segments"]).logits)
    assert len(logits) == len(data)
    for sample in data:
        close(logits[tuple(sample["input_ids"])], model(sample["input_ids"]).logits)


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_step_has_the_loss_and_gradients_of_a_row_each(kind: str) -> None:
    model, data = tiny(kind), samples()
    stats = tr.calibrate(model, data[:3])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 4, 8))
    rng = np.random.default_rng(0)
    arrays = trained_arrays(model, adapter, TrainSettings(trainable="AB"))
    arrays = {name: x if ".lora_A" in name else 0.1 * rng.standard_normal(x.shape) for name, x in arrays.items()}
    model.attach(adapter)
    install(arrays, model, adapter)
    alone = step_gradients(model, arrays, [pad_batch([sample]) for sample in data if len(sample["input_ids"]) > 1])
    packed = step_gradients(model, arrays, [pack_batch(data, ROW)])
    assert packed.tokens == alone.tokens > 100
    assert packed.loss == pytest.approx(alone.loss, rel=1e-12)
    for name in arrays:
        close(packed.arrays[name], alone.arrays[name])


def test_what_a_packed_batch_holds() -> None:
    data = [
        {"input_ids": list(range(10 * n, 10 * n + n)), "labels": list(range(10 * n, 10 * n + n))} for n in (2, 5, 3)
    ]
    batch = pack_batch(data, 7, pad_id=9)
    assert batch["input_ids"].tolist() == [[50, 51, 52, 53, 54, 20, 21], [30, 31, 32, 9, 9, 9, 9]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 51, 52, 53, 54, -100, 21], [-100, 31, 32, -100, -100, -100, -100]]
    assert pack_batch(data, 10)["segments"].tolist() == [[1] * 5 + [2] * 3 + [3] * 2]
    many = pack_batch(samples() * 4, 100)
    assert many["segments"].shape[1] <= 100 and (many["segments"] > 0).sum() == 4 * sum(LENGTHS)
    assert len(halves(many)) == 2
    with pytest.raises(DataError, match="5 tokens does not fit into a packed row of 4"):
        pack_batch(data, 4)
    with pytest.raises(DataError, match=r"labels of shape \(2,\) for 3 tokens"):
        pack_batch([{"input_ids": [1, 2, 3], "labels": [1, 2]}], 4)
    with pytest.raises(DataError, match="empty"):
        pack_batch([], 4)


def test_a_packed_run_is_the_unpacked_one_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_rows: list[int] = []

    def counted(*arguments: Any) -> dict[str, np.ndarray]:
        batch = pack_batch(*arguments)
        made_rows.append(len(batch["input_ids"]))
        return batch

    monkeypatch.setattr(loop, "pack_batch", counted)
    data = [sample for sample in samples() if len(sample["input_ids"]) > 1]
    options: dict[str, Any] = {"steps": 7, "batch_size": 5, "lr": 0.02, "grad_accumulation": 2}
    (plain, adapter), (packed, other) = prepared(), prepared()
    one = tr.train(plain, adapter, data, **options)
    two = tr.train(packed, other, data, **options, packing=32, out=tmp_path / "whole")
    for a, b in zip(one.history, two.history, strict=True):
        assert a["tokens"] == b["tokens"] and a["lr"] == b["lr"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-9) and b["grad_norm"] == pytest.approx(
            a["grad_norm"], rel=1e-8
        )
    assert two.history[0]["loss"] == pytest.approx(one.history[0]["loss"], rel=1e-12)
    assert len(made_rows) == 11 and max(made_rows) < 5  # two forward passes of 5 samples a step, one of 5 at its end

    def stop(entry: dict[str, Any]) -> None:
        if entry["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tr.train(*prepared(), data, **options, packing=32, out=tmp_path / "a", on_step=stop)
    model, again = prepared()
    tr.train(model, again, data, **options, packing=32, out=tmp_path / "a", resume=True)
    assert bits(again.B) == bits(other.B)
    with pytest.raises(TLoRAError, match="packing: then 32, now None"):
        tr.train(*prepared(), data, **options, out=tmp_path / "a", resume=True)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (tiny("lfm2"), "lfm2 .*convolutions run along the row"),
        (made({"model_type": "t5", **T5}), "t5 .*only a language model that reads from left to right"),
        (bare("bert"), "bert .*only a language model"),
        (tiny_classifier("llama"), "llama .SEQ_CLS.*only a language model"),
        (tiny("phi3", original_max_position_embeddings=15), '"longrope".*longer than 15 tokens, .* has 16'),
        (
            tiny("llama", max_position_embeddings=15, rope_scaling={"type": "dynamic", "factor": 2.0}),
            'llama .*"dynamic".*longer than 15 tokens',
        ),
    ],
)
def test_models_whose_samples_cannot_share_a_row_are_refused_by_name(model: Model, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        tr.train(model, None, samples(), trainable="all", steps=2, packing=ROW)


def test_what_is_refused_of_a_packed_run() -> None:
    with pytest.raises(ConfigError, match="longest sample has 16 tokens, and a row 15"):
        tr.train(*prepared(), samples(), steps=2, packing=15)
    for length in (0, True, 2.5):
        with pytest.raises(ConfigError, match="packing is"):
            TrainSettings(packing=length)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segments", "more", "error", "says"),
    [
        ([1, 1, 2, 1], {}, DataError, "row 0 stands in two places"),
        ([1, 1, 0, 1], {}, DataError, "row 0 stands in two places"),
        ([0, 0, 0, 0], {}, DataError, "all padding"),
        ([1, 1, -1, 2], {}, DataError, "positive integer"),
        ([1.0, 1.0, 2.0, 2.0], {}, DataError, "positive integer"),
        ([1, 1, 2], {}, ShapeError, r"\(1, 3\)"),
        ([1, 1, 2, 2], {"attention_mask": [1, 1, 1, 1]}, DataError, "leave attention_mask out"),
        ([1, 1, 2, 3], {"labels": [4, -100, 6, 7]}, DataError, "no label is scored"),
    ],
)
def test_segments_that_are_refused(segments: list[Any], more: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        tiny("llama")([4, 5, 6, 7], segments=segments, **more)


def test_padding_may_stand_anywhere_between_samples() -> None:
    model = tiny("mistral")
    ids = [9, 4, 5, 6, 9, 9, 7, 8, 9]
    logits = model(ids, segments=[0, 5, 5, 5, 0, 0, 2, 2, 0]).logits
    close(logits[1:4], model([4, 5, 6]).logits)
    close(logits[6:8], model([7, 8]).logits)


def test_a_model_of_convolutions_refuses_segments_itself() -> None:
    with pytest.raises(ConfigError, match="lfm2 model cannot share a row"):
        tiny("lfm2")([4, 5, 6, 7], segments=[1, 1, 2, 2])
    attends = {**CONFIGS["lfm2"], "full_attn_idxs": [0, 1, 2]}
    close(made(attends)([4, 5, 6, 7], segments=[1, 1, 2, 2]).logits[2:], made(attends)([6, 7]).logits)
