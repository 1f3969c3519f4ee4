"""PEFT's plain LoRA from the golden A, with torch's AdamW, through the recorder: right; and three ways to miss it.

GPT-2 is the family that transformers computes in float64 throughout; its own loss is in float32, and is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.oracle.test_ablations import LORA
from tests.tiny import tiny_samples
from tlora_ref.oracle.recorder import Recorder

STAGES = ("ranks", "scales", "A", "gradient", "adamw", "merge")


def trained(
    model: Path, golden: Path, folder: Path, dtype: str, change: Callable[[Any], None] | None = None, **config: Any
) -> None:
    """PEFT's plain LoRA as its users make it, from the golden A, recorded; `change` is made before it trains."""
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    torch.set_num_threads(1)
    recorder = Recorder(golden)
    facts, shapes = recorder.golden.manifest, recorder.golden.shapes
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    told = {"r": facts.r_init, "lora_alpha": facts.alpha, "target_modules": list(shapes), **config}
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **told))
    for m in shapes:
        A = adapted.get_submodule(f"base_model.model.{m}").lora_A["default"].weight
        A.data.copy_(torch.tensor(recorder.golden.get(f"A/{m}")))
    if change is not None:
        change(adapted)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], weight_decay=0.01)
    with recorder.training(adapted, optimizer):
        for _, rate, batch in recorder.batches():
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            ids, labels, mask = (torch.as_tensor(batch[name]) for name in ("input_ids", "labels", "attention_mask"))
            logits = adapted(input_ids=ids, attention_mask=mask).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            recorder.loss(loss)
            loss.backward()
            optimizer.step()
    recorder.write(folder, merged=adapted.merge_and_unload())


def recorded(tmp_path: Path, dtype: str, **how: Any) -> Any:
    """The report on such a run."""
    # weights that float32 holds, so that both sides have the same ones
    tr.save_model(tiny_model("gpt2", seed=3), tmp_path / "model", "float32")
    model, samples = tr.load_model(tmp_path / "model"), tiny_samples(3, seed=4)
    tr.trace(model, samples, tmp_path / "g", r_init=3, alpha=6.0, steps=5, lr=1e-3, batch_size=2, **LORA)
    trained(tmp_path / "model", tmp_path / "g", tmp_path / "c", dtype, **how)
    return tr.compare(tmp_path / "g", tmp_path / "c", checkpoint=model, require=STAGES)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_lora_of_peft_is_right(dtype: str, tmp_path: Path) -> None:
    report = recorded(tmp_path, dtype)
    assert report.passed, report.lines()
    kinds = {f.verdict.what.split(" of step")[0] for f in report.of("pass") if f.verdict}
    assert {"dL/dA", "dL/dB", "A", "B", "A_exp_avg", "A_exp_avg_sq"} <= kinds


def freeze(adapted: Any) -> None:
    for name, weight in adapted.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)


def redraw(adapted: Any) -> None:
    for name, weight in adapted.named_parameters():
        if "lora_A" in name:
            weight.data.normal_(std=0.5)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("how", "stage", "cause"),
    [
        ({"use_rslora": True}, "scales", "rsLoRA"),
        ({"change": freeze}, "gradient", "A was frozen"),
        ({"change": redraw}, "A", None),
    ],
)
def test_another_lora_is_not(how: dict[str, Any], stage: str, cause: str | None, tmp_path: Path) -> None:
    report = recorded(tmp_path, "float32", **how)
    assert not report.passed and report.first_failing == stage, report.lines()
    assert cause is None or cause in str(report.cause)
