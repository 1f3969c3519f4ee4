"""`model.recompute`: the wide inside of every family's MLPs is computed again on the way back, to the same bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.autograd import grad
from tlora_ref.transformer import Model


def samples_of(model: Model, n: int = 2) -> list[dict[str, Any]]:
    rows = tiny_samples(n, seed=1)
    return [{**row, "labels": i % 2} for i, row in enumerate(rows)] if model.labels else rows


def adapted(model: Model) -> Model:
    """With an adapter of rank 2 whose B is not 0."""
    shapes = model.shapes()
    adapter = tr.initialize(model, None, tr.allocate(dict.fromkeys(shapes, 1.0), shapes, 2, 2), init="random")
    rng = np.random.default_rng(5)
    adapter.B = {m: (0.1 * rng.standard_normal(B.shape)).astype(B.dtype) for m, B in adapter.B.items()}
    model.attach(adapter)
    return model


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_same_loss_and_gradients_of_everything(name: str) -> None:
    found = []
    for recompute in (False, True):
        model = adapted(tiny_model(name))
        model.recompute = recompute
        low_rank = [f"{m}.lora_{part}.weight" for m in model.shapes() for part in "AB"]
        for watched in (low_rank, None):  # B and A alone, as training has it; all, as calibration does
            loss = model.watching(watched)(**samples_of(model)[0]).loss
            names = low_rank if watched else [*low_rank, *model.tensors]
            found.append((loss.item(), grad(loss, names)))
    for (loss, gradients), (again, recomputed) in zip(found[:2], found[2:], strict=True):
        assert loss == again
        assert all(np.array_equal(gradients[n], recomputed[n]) for n in gradients)


@pytest.mark.parametrize("name", ["llama", "phi3", "t5-gated", "bert"])
def test_calibration_observes_each_input_once(name: str) -> None:
    found = []
    for recompute in (False, True):
        model = tiny_model(name)
        model.recompute = recompute
        seen: Counter[str] = Counter()
        loss = model.observing(lambda module, x, seen=seen: seen.update([module]))(**samples_of(model)[0]).loss
        grad(loss, [f"{module}.weight" for module in model.shapes()])
        found.append((seen, tr.calibrate(model, samples_of(model))))
    (seen, plain), (seen_again, again) = found
    assert seen == seen_again and plain.sensitivity == again.sensitivity
    assert all(np.array_equal(C, again.covariance_sums[m]) for m, C in plain.covariance_sums.items())


def test_the_way_back_uses_the_weights_of_the_way_forth() -> None:
    """What is changed in between belongs to the next pass."""
    found = []
    for change in (False, True):
        model = adapted(tiny_llama())
        model.recompute = True
        names = [f"{module}.lora_B.weight" for module in model.shapes()]
        loss = model.watching(names)(**tiny_samples(1)[0]).loss
        if change:
            for matrices in (model.tensors, model.adapter.A, model.adapter.B):  # type: ignore[union-attr]
                matrices.update({name: np.zeros_like(x) for name, x in matrices.items()})
        found.append(grad(loss, names))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in names)
    assert all(found[0][name].any() for name in names)


def test_what_is_held_is_recomputed(tmp_path: Any) -> None:
    tr.save_model(tiny_llama(), tmp_path / "m", "bfloat16")
    assert tr.load_model(tmp_path / "m", hold="bfloat16").recompute
    assert not tr.load_model(tmp_path / "m", "float32").recompute
