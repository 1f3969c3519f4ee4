"""The errata page's recipe for training on in PEFT, with real PEFT: A keeps every bit, B moves."""

from __future__ import annotations

from pathlib import Path

import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import save_model, save_peft


@pytest.mark.parity
def test_A_stays_frozen_when_peft_trains_on(tmp_path: Path) -> None:
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    model, samples = tiny_llama(seed=5, dtype="float32"), tiny_samples(2, seed=5)
    stats = tr.calibrate(model, samples)
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 2))
    save_model(model, tmp_path / "model", "float32")
    save_peft(adapter, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True)
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name:
            assert parameter.requires_grad  # why the recipe is needed
            parameter.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in wrapped.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.tensor([samples[0]["input_ids"]])
    wrapped(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in wrapped.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if "lora_B" in name}
