"""Weights held in bfloat16: the same bits as the same file in float32, in two bytes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_samples
from tlora_ref.autograd import grad, products
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.transformer import Model
from tlora_ref.transformer.holding import holdable

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SIZES = [(2**24, 2**21, 2**19), (40, 24, 48)]  # as they are, and so small that every matrix is cut


def both(name: str, folder: Path, seed: int = 0) -> tuple[Model, Model]:
    """A tiny model from a folder in bfloat16: in float32, and held."""
    tr.save_model(tiny_model(name, seed), folder / name, "bfloat16", overwrite=True)
    plain = tr.load_model(folder / name, "float32")
    return plain, tr.load_model(folder / name, hold="bfloat16")


def samples_of(model: Model) -> list[dict[str, Any]]:
    rows = tiny_samples(3, seed=1)
    return [{**row, "labels": i % 2} for i, row in enumerate(rows)] if model.labels else rows


def cut(patch: pytest.MonkeyPatch, sizes: tuple[int, int, int]) -> None:
    whole, block, for_few = sizes
    patch.setattr(products, "WHOLE", whole)
    patch.setattr(products, "BLOCK", block)
    patch.setattr(products, "WHOLE_FOR_FEW", for_few)
    patch.setattr(products, "BLOCK_FOR_FEW", for_few)


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert set(a) == set(b)
    for name, x in a.items():
        assert x.dtype == b[name].dtype == np.float32, name
        assert np.array_equal(x, b[name]), name


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_gradients_and_tokens(name: str, sizes: tuple[int, int, int], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, sizes)
        plain, held = both(name, tmp_path)
        assert held.dtype == np.float32 and held.digest() == plain.digest()
        assert held.parameter_count() == plain.parameter_count()
        two_bytes = {key for key, x in held.tensors.items() if x.dtype == BFLOAT16}
        assert two_bytes == holdable(type(held), held.config)
        assert {f"{module}.weight" for module in held.shapes()} <= two_bytes
        for sample in samples_of(plain):
            ours, theirs = held(**sample), plain(**sample)
            assert ours.loss.item() == theirs.loss.item()
            assert np.array_equal(ours.logits, theirs.logits)
            same(grad(ours.loss, list(held.tensors)), grad(theirs.loss, list(plain.tensors)))
        if plain.task_type == "CAUSAL_LM" and plain.config.model_type != "t5":
            ids, options = [5, 9, 7], {"max_new_tokens": 6, "eos_token_id": -1}
            assert (held.generate(ids, **options) == plain.generate(ids, **options)).all()


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3", "t5", "bert"])
def test_the_whole_method(name: str, tmp_path: Path) -> None:
    results = []
    for model in both(name, tmp_path):
        samples = samples_of(model)
        stats = tr.calibrate(model, samples)
        plan = tr.allocate(stats.sensitivity, stats.shapes, 2, 4.0)
        adapter = tr.initialize(model, stats, plan, seed=3)
        tr.train(model, adapter, samples, steps=3, batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0)
        loss = tr.evaluate(model, samples).loss
        model.detach()
        merged = model.merge(adapter)
        tr.save_model(merged, tmp_path / "merged", overwrite=True)
        results.append((stats, adapter, loss, tr.load_model(tmp_path / "merged", "float32")))
    (stats, adapter, loss, merged), (stats_2, adapter_2, loss_2, merged_2) = results
    same(stats.covariance_sums, stats_2.covariance_sums)
    assert stats.sensitivity == stats_2.sensitivity and loss == loss_2
    same(adapter.A, adapter_2.A)
    same(adapter.B, adapter_2.B)
    same(merged.tensors, merged_2.tensors)


def test_training_everything_widens_what_is_trained(tmp_path: Path) -> None:
    results = []
    for model in both("llama", tmp_path):
        tr.train(model, None, samples_of(model), trainable="all", steps=2, batch_size=1, lr=1e-2)
        results.append(model.tensors)
    same(*results)


def test_workers_hold_too(tmp_path: Path) -> None:
    plain, held = both("llama", tmp_path)
    with ProcessPoolExecutor(2) as executor:
        found = tr.calibrate(held, samples_of(held), executor=executor)
    same(found.covariance_sums, tr.calibrate(plain, samples_of(plain)).covariance_sums)


def test_what_is_refused(tmp_path: Path) -> None:
    tr.save_model(tiny_model("llama"), tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"does not fit into bfloat16 without rounding.*save it in bfloat16"):
        tr.load_model(tmp_path / "m", hold="bfloat16")
    for more, message in (
        ({"hold": "int8"}, 'hold "int8" is not supported'),
        ({"hold": "bfloat16", "dtype": "float64"}, "computed with in float32"),
        ({"hold": "bfloat16", "device": "gpu"}, "on a CPU alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            tr.load_model(tmp_path / "m", **more)


def test_a_file_in_float32_that_fits_is_held(tmp_path: Path) -> None:
    plain, _ = both("llama", tmp_path)
    tr.save_model(plain, tmp_path / "wide", "float32")
    held = tr.load_model(tmp_path / "wide", hold="bfloat16")
    assert held.digest() == plain.digest() and held.tensors["model.embed_tokens.weight"].dtype == BFLOAT16
    broken = dict(plain.tensors)
    broken["model.embed_tokens.weight"] = broken["model.embed_tokens.weight"].copy()
    broken["model.embed_tokens.weight"][0, 0] = np.nan
    save_file(broken, tmp_path / "wide" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="NaN"):
        tr.load_model(tmp_path / "wide", hold="bfloat16")
