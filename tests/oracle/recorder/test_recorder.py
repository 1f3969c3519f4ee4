"""The recorder on real PyTorch, transformers and PEFT: four families, as they are run, judged right in all 9 stages."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.recorder import Recorder
from tlora_ref.oracle.traces import MANIFEST, Trace
from tlora_ref.training import TrainSettings
from tlora_ref.transformer import Model

ROOT = Path(__file__).resolve().parents[3]
TRAINING = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0, weight_decay=0.1)


@dataclass(frozen=True)
class Kind:
    """One of the four families, and how its PyTorch side is run."""

    name: str
    architecture: str

    def samples(self) -> list[dict[str, Any]]:
        """Four; of a classifier, each with its class."""
        if "classifier" in self.name or self.name == "bert":
            return [{"input_ids": s["input_ids"], "labels": n % 2} for n, s in enumerate(tiny_samples(4, seed=5))]
        return tiny_samples(4, seed=5)


KINDS = [
    Kind("llama", "AutoModelForCausalLM"),
    Kind("gpt2", "AutoModelForCausalLM"),  # Conv1D
    Kind("t5", "AutoModelForSeq2SeqLM"),
    Kind("bert", "AutoModelForSequenceClassification"),
]


@dataclass(frozen=True)
class Golden:
    """A golden trace, and the folder and the model that it is of."""

    model: Model
    folder: Path
    trace: Path


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kind, Golden]:
    """Of weights that bfloat16 holds, so that every precision has the same ones."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param.name)
    rounded = Precision.of("bfloat16").rounded
    made = tiny_model(kind.name, seed=3)
    model = type(made)(made.config, {name: rounded(x) for name, x in made.tensors.items()})
    tr.save_model(model, folder / "model", "float32")
    tr.trace(model, kind.samples(), folder / "golden", r_init=2, alpha=3.0, steps=2, settings=TRAINING)
    return kind, Golden(model, folder / "model", folder / "golden")


def example() -> Any:
    """Example 02 as a module."""
    spec = importlib.util.spec_from_file_location("example_02", ROOT / "examples" / "02_record_from_peft.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_right(golden: Golden, candidate: Path) -> None:
    report = tr.compare(golden.trace, candidate, checkpoint=golden.model)
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    assert {finding.stage for finding in report.of("pass")} == set(ORDER)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("dtype", "attention", "checkpointing", "fused"),
    [("float32", "eager", False, False), ("float32", "sdpa", True, True), ("bfloat16", "sdpa", False, True)],
)
def test_a_right_run_is_recorded_and_right(
    golden: tuple[Kind, Golden], tmp_path: Path, dtype: str, attention: str, checkpointing: bool, fused: bool
) -> None:
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    pytest.importorskip("peft")
    kind, gold = golden
    torch.set_num_threads(1)
    auto = getattr(transformers, kind.architecture)
    model = auto.from_pretrained(gold.folder, dtype=getattr(torch, dtype), attn_implementation=attention)
    model.eval()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()  # checkpointing wants it; without dropout
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
    theirs, recorder = example(), Recorder(gold.trace)
    facts, shapes = recorder.golden.manifest, recorder.golden.shapes
    with recorder.calibration(model):
        C, S = theirs.calibrate(model, list(shapes), recorder.samples())
    rank, scale = theirs.allocate(S, shapes, facts.r_init, facts.alpha)
    recorder.add(covariance=C, sensitivity=S, rank=rank, scale=scale)
    adapted = theirs.adapt(model, C, rank, scale)
    B = [weight for name, weight in adapted.named_parameters() if ".lora_B." in name]
    optimizer = torch.optim.AdamW(B, lr=1.0, weight_decay=0.1, fused=fused)
    with recorder.training(adapted, optimizer):
        theirs.train(adapted, optimizer, recorder.batches())
    recorder.write(tmp_path / "c", merged=adapted.merge_and_unload())
    assert_right(gold, tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / MANIFEST).read_text())
    assert manifest["dtype"] == dtype and {"torch", "transformers", "peft"} <= set(manifest["versions"])


class Adapted:
    """Makes a linear module `W x + s B (A x)`, the adapter kept as bare parameters under names of its own."""

    def __init__(self, torch: Any, linear: Any, A: Any, scale: float) -> None:
        self.down, self.scale = torch.nn.Parameter(A, requires_grad=False), scale
        self.up = torch.nn.Parameter(torch.zeros(linear.weight.shape[0], len(A)))
        linear.register_forward_hook(lambda module, args, y: y + scale * (args[0] @ self.down.T @ self.up.T))


@pytest.mark.parity
def test_clipping_micro_batches_and_adapters_of_ones_own(tmp_path: Path) -> None:
    """grad_B is what stands before clipping, over both halves of a batch; the loss is told."""
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    torch.set_num_threads(1)
    model, samples = tiny_llama(seed=3), tiny_samples(2, seed=5)
    tr.save_model(model, tmp_path / "model", "float32")
    model = tr.load_model(tmp_path / "model")
    settings = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0, max_grad_norm=0.05)
    tr.trace(model, samples, tmp_path / "g", r_init=2, steps=2, settings=settings)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    recorder = Recorder(tmp_path / "g")
    gold = recorder.golden
    for weight in theirs.parameters():
        weight.requires_grad_(False)
    adapters = {
        m: Adapted(
            torch, theirs.get_submodule(m), torch.tensor(gold.get(f"A/{m}")).float(), float(gold.get(f"scale/{m}"))
        )
        for m in gold.modules("A")
    }
    B = [adapter.up for adapter in adapters.values()]
    optimizer = torch.optim.AdamW(B, lr=1e-2)
    kept = {m: (adapter.down, adapter.up, adapter.scale) for m, adapter in adapters.items()}
    with recorder.training(theirs, optimizer, adapters=kept):
        for _, _, batch in recorder.batches():
            optimizer.zero_grad()
            tokens, whole = (batch["labels"][:, 1:] != -100).sum(), 0.0
            for row in range(2):
                half = {name: torch.as_tensor(x[row : row + 1]) for name, x in batch.items()}
                loss = theirs(**half).loss * ((half["labels"][:, 1:] != -100).sum() / tokens)
                loss.backward()
                whole += loss.item()
            recorder.loss(np.float32(whole))
            torch.nn.utils.clip_grad_norm_(B, 0.05)
            optimizer.step()
    recorder.write(tmp_path / "c")
    report = tr.compare(tmp_path / "g", tmp_path / "c", checkpoint=model)
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    assert {"gradient", "adamw"} <= {finding.stage for finding in report.of("pass")}
    assert Trace(tmp_path / "c").has("train/loss")


@pytest.mark.parity
def test_what_hooks_cannot_take_apart_is_said(golden: tuple[Kind, Golden], tmp_path: Path) -> None:
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    kind, gold = golden
    model = getattr(transformers, kind.architecture).from_pretrained(gold.folder, dtype=torch.float32)
    recorder = Recorder(gold.trace)
    first = {name: torch.as_tensor(x) for name, x in next(recorder.samples()).items()}
    with pytest.warns(UserWarning, match="several samples .*, or padded"), recorder.calibration(model):
        model(**{name: torch.cat([x, x]) for name, x in first.items()}).loss.backward()
        model(**first).loss.backward()
    assert {name.split("/")[1] for name in recorder.writer.tensors} == {"1"}  # the second pass is of sample 1
    assert all(not module._forward_pre_hooks for module in model.modules())  # nothing stays behind
    with pytest.raises(ConfigError, match="none of the golden trace's modules has lora_A"):
        recorder.training(model, None).__enter__()
    with pytest.raises(ConfigError, match="is not in this Linear"):
        recorder.calibration(torch.nn.Linear(2, 2)).__enter__()
    with pytest.raises(ConfigError, match="after a forward pass"):
        recorder.loss(1.0)
