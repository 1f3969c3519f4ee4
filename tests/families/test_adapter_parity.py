"""TLoRA on every decoder, carried to real PEFT and, merged, to transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import tlora_ref as tr  # noqa: E402
from tests.families.common import CLASSIFIERS, CONFIGS, tiny, tiny_classifier  # noqa: E402
from tests.parity.float64 import true_float64  # noqa: E402 (needs torch)
from tlora_ref.adapter import Adapter  # noqa: E402
from tlora_ref.checkpoint import load_model, load_peft, save_model, save_peft  # noqa: E402
from tlora_ref.transformer import Model  # noqa: E402

pytestmark = pytest.mark.parity
IDS = np.random.default_rng(0).integers(1, 31, (2, 9))
KINDS = [*((kind, False) for kind in CONFIGS), *((kind, True) for kind in CLASSIFIERS)]


def tlora(model: Model, classifier: bool, profile: str) -> Adapter:
    """An adapter from calibration on, its B set to something that matters; a classifier's head trained whole."""
    rng = np.random.default_rng(1)
    rows = rng.integers(1, 31, (3, 8))
    samples = [{"input_ids": row, "labels": np.array([i]) if classifier else row} for i, row in enumerate(rows)]
    stats = tr.calibrate(model, samples, profile=profile)
    plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=4, alpha=6, profile=profile)
    adapter = tr.initialize(model, stats, plan)
    adapter.B = {m: 0.1 * rng.standard_normal(B.shape) for m, B in adapter.B.items()}
    if classifier and profile == "released":  # a trained head; with the paper's it goes along as it is
        adapter.saved = {"score.weight": rng.standard_normal((3, model.tensors["score.weight"].shape[1]))}
    return adapter


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(IDS)).logits.numpy()


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


@pytest.mark.parametrize("profile", ["paper", "released"])
@pytest.mark.parametrize(("kind", "classifier"), KINDS)
def test_adapter_in_peft_and_merged_in_transformers(kind: str, classifier: bool, profile: str, tmp_path: Path) -> None:
    model = tiny_classifier(kind) if classifier else tiny(kind)
    save_model(model, tmp_path / "base", dtype="float64")
    adapter = tlora(model, classifier, profile)
    save_peft(adapter, tmp_path / "adapter")
    save_model(model.merge(adapter), tmp_path / "merged", dtype="float64")
    plain = model(IDS).logits
    model.attach(adapter)
    mine = model(IDS).logits
    assert np.abs(mine - plain).max() > 1e-2
    load = getattr(transformers, CLASSIFIERS[kind] if classifier else model.config.architecture).from_pretrained
    with true_float64():
        base = load(tmp_path / "base", dtype=torch.float64).eval()
        same(logits_of(base), plain)
        same(logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()), mine)
        same(logits_of(load(tmp_path / "merged", dtype=torch.float64).eval()), mine)
    again = load_model(tmp_path / "base")
    again.attach(load_peft(tmp_path / "adapter"))
    assert (again(IDS).logits == mine).all()


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapter_of_peft(kind: str, tmp_path: Path) -> None:
    save_model(tiny(kind), tmp_path / "base", dtype="float64")
    load = getattr(transformers, tiny(kind).config.architecture).from_pretrained
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(type(tiny(kind)).default_targets))
    with true_float64():
        torch.manual_seed(0)
        theirs = peft.get_peft_model(load(tmp_path / "base", dtype=torch.float64), config).eval()
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.2)
        expected = logits_of(theirs)
        theirs.save_pretrained(tmp_path / "adapter")
    model = load_model(tmp_path / "base")
    model.attach(load_peft(tmp_path / "adapter"))
    assert set(model.adapter.A) == set(model.shapes())
    same(model(IDS).logits, expected)
