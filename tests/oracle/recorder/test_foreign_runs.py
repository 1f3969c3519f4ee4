"""Right runs in the forms that people have them: none is recorded so that it looks wrong; what cannot be is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.oracle.recorder.test_by_hand import Lora
from tests.oracle.recorder.test_recorder import TRAINING, example
from tests.tiny import tiny_samples
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.recorder import Recorder
from tlora_ref.oracle.recorder.foreign import adapters_of
from tlora_ref.oracle.reports.comparison import Report


class Golden:
    """A model's folder and its golden trace; weights are such as bfloat16 and float16 hold."""

    def __init__(self, folder: Path, kind: str, samples: list[dict[str, Any]], r_init: int = 2) -> None:
        made = tiny_model(kind, seed=3)
        small = {name: Precision.of("bfloat16").rounded(x) for name, x in made.tensors.items()}
        self.model, self.folder, self.trace = type(made)(made.config, small), folder / "model", folder / "golden"
        tr.save_model(self.model, self.folder, "float32")
        tr.trace(self.model, samples, self.trace, r_init=r_init, alpha=3.0, steps=2, settings=TRAINING)

    def loaded(self, dtype: str = "float32", kind: str = "AutoModelForCausalLM") -> Any:
        torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
        pytest.importorskip("peft")
        torch.set_num_threads(1)
        return getattr(transformers, kind).from_pretrained(self.folder, dtype=getattr(torch, dtype)).eval()

    def judged(self, recorder: Recorder, folder: Path, **merged: Any) -> Report:
        recorder.write(folder, **merged)
        return tr.compare(self.trace, folder, checkpoint=self.model)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return Golden(tmp_path_factory.mktemp("llama"), "llama", tiny_samples(2, seed=5))


def initialised(golden: Golden, recorder: Recorder, dtype: str = "float32") -> Any:
    """PEFT's model as example 02 makes it, its calibration not recorded."""
    model = golden.loaded(dtype)
    theirs, facts, shapes = example(), recorder.golden.manifest, recorder.golden.shapes
    C, S = theirs.calibrate(model, list(shapes), recorder.samples())
    rank, scale = theirs.allocate(S, shapes, facts.r_init, facts.alpha)
    return theirs.adapt(model, C, rank, scale)


def optimizer_of(adapted: Any, **how: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], weight_decay=0.1, **how)


def tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {name: torch.as_tensor(x) for name, x in arrays.items()}


def stages_of(report: Report) -> set[str]:
    assert report.passed, report.lines()
    return {finding.stage for finding in report.of("pass")}


TRAINED = {"ranks", "scales", "A", "gradient", "adamw", "merge"}


@pytest.mark.parity
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "float16"])
def test_the_precision_is_seen_where_the_adapters_do_not_tell(golden: Golden, tmp_path: Path, weights: str) -> None:
    """Autocast over weights in float32; a base in 16 bits under PEFT's adapters in float32."""
    torch, recorder = pytest.importorskip("torch"), Recorder(golden.trace)
    adapted = initialised(golden, recorder, weights)
    optimizer = optimizer_of(adapted, lr=TRAINING.lr)
    with recorder.training(adapted, optimizer):
        for _, _, batch in recorder.batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=weights == "float32"):
                loss = adapted(**tensors(batch)).loss
            loss.backward()
            optimizer.step()
    assert recorder.dtype == ("float16" if weights == "float16" else "bfloat16")
    report = golden.judged(recorder, tmp_path / "c", merged=adapted.merge_and_unload())
    assert stages_of(report) == TRAINED


def scaled_run(recorder: Recorder, adapted: Any, *, fused: bool, told: bool, init_scale: float) -> None:
    """A loop in float16 with a GradScaler; a step that it skips is made again."""
    torch = pytest.importorskip("torch")
    optimizer = optimizer_of(adapted, lr=TRAINING.lr, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    with recorder.training(adapted, optimizer, scaler=scaler if told else None):
        for _, _, batch in recorder.batches():
            made, tried = False, 0
            while not made and tried < 30:
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.float16):
                    loss = adapted(**tensors(batch)).loss
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                before, tried = scaler.get_scale(), tried + 1
                scaler.update()
                made = scaler.get_scale() >= before


@pytest.mark.parity
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_none(golden: Golden, tmp_path: Path, fused: bool) -> None:
    recorder = Recorder(golden.trace)
    adapted = initialised(golden, recorder)
    with pytest.warns(UserWarning, match="step 1 is skipped by the GradScaler"):
        scaled_run(recorder, adapted, fused=fused, told=True, init_scale=2.0**24)
    report = golden.judged(recorder, tmp_path / "c", merged=adapted.merge_and_unload())
    assert stages_of(report) == TRAINED and "train/loss" in recorder.writer.tensors


@pytest.mark.parity
def test_a_scaler_that_was_not_told_is_asked_for(golden: Golden) -> None:
    recorder = Recorder(golden.trace)
    adapted = initialised(golden, recorder)
    with pytest.warns(UserWarning, match=r"starts from 256 times the loss.*scaler=scaler"):
        scaled_run(recorder, adapted, fused=False, told=False, init_scale=256.0)


def on_their_own(model: Any, samples: list[dict[str, Any]]) -> Iterator[Any]:
    for sample in samples:
        yield model(**sample).loss


@pytest.mark.parity
@pytest.mark.parametrize("factor", [0.5, 65536.0])
def test_what_the_backward_pass_starts_from_is_taken_out(golden: Golden, factor: float) -> None:
    """loss / N, or a GradScaler's: the gradients are still known of the loss itself."""
    recorder, model = Recorder(golden.trace), golden.loaded()
    with recorder.calibration(model):
        for loss in on_their_own(model, [tensors(s) for s in recorder.samples()]):
            (loss * factor).backward()
    for m in recorder.golden.shapes:
        name = f"sample/1/sensitivity/{m}"
        assert recorder.writer.tensors[name] == pytest.approx(recorder.golden.get(name), rel=1e-4)


def in_a_batch(model: Any, samples: list[dict[str, Any]]) -> None:
    """By position, as `model(ids, mask)`; padded to one length."""
    torch = pytest.importorskip("torch")
    ids = torch.nn.utils.rnn.pad_sequence([s["input_ids"][0] for s in samples], batch_first=True)
    model(ids, (ids != 0).long())


def packed(model: Any, samples: list[dict[str, Any]]) -> None:
    torch = pytest.importorskip("torch")
    ids = [s["input_ids"] for s in samples]
    model(input_ids=torch.cat(ids, 1), position_ids=torch.cat([torch.arange(x.shape[1])[None] for x in ids], 1))


def padded(model: Any, samples: list[dict[str, Any]]) -> None:
    torch = pytest.importorskip("torch")
    ids = torch.nn.functional.pad(samples[0]["input_ids"], (0, 2))
    model(ids, torch.arange(ids.shape[1])[None] < ids.shape[1] - 2)


@pytest.mark.parity
@pytest.mark.parametrize("passes", [in_a_batch, packed, padded])
def test_a_pass_of_several_samples_is_not_taken_for_one(golden: Golden, passes: Callable[..., None]) -> None:
    recorder, model = Recorder(golden.trace), golden.loaded()
    with pytest.warns(UserWarning, match="several samples .* or padded"), recorder.calibration(model):
        passes(model, [tensors(s) for s in recorder.samples()])
    assert not recorder.writer.tensors


@pytest.mark.parity
def test_weights_that_serve_twice_in_a_pass(tmp_path: Path) -> None:
    """DeBERTa's queries and keys of tokens and of relative positions are made by the same weights."""
    samples = [{"input_ids": s["input_ids"], "labels": n % 2} for n, s in enumerate(tiny_samples(2, seed=5))]
    golden = Golden(tmp_path, "deberta-v2", samples)
    model, recorder = golden.loaded(kind="AutoModelForSequenceClassification"), Recorder(golden.trace)
    with recorder.calibration(model):
        for loss in on_their_own(model, [tensors(s) for s in recorder.samples()]):
            loss.backward()
    assert {"loss", "covariance"} <= stages_of(golden.judged(recorder, tmp_path / "c"))


@pytest.mark.parity
def test_the_optimizer_of_accelerate(golden: Golden, tmp_path: Path) -> None:
    accelerate, recorder = pytest.importorskip("accelerate"), Recorder(golden.trace)
    adapted, accelerator = initialised(golden, recorder), accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(adapted, optimizer_of(adapted, lr=TRAINING.lr))
    with recorder.training(model, optimizer):
        example().train(model, optimizer, recorder.batches())
    report = golden.judged(recorder, tmp_path / "c", merged=adapted.merge_and_unload())
    assert stages_of(report) == TRAINED


@pytest.mark.parity
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "q_proj is DoRA"),
        ({"lora_bias": True}, "LoRA with a bias"),
        ({"modules_to_save": ["lm_head"]}, "also trains .*lm_head.*leaves as it is. Freeze it"),
    ],
)
def test_another_adapter_or_training_is_refused(golden: Golden, config: dict[str, Any], said: str) -> None:
    peft, recorder = pytest.importorskip("peft"), Recorder(golden.trace)
    targets = list(recorder.golden.shapes)
    adapted = peft.get_peft_model(golden.loaded(), peft.LoraConfig(r=2, target_modules=targets, **config))
    optimizer = optimizer_of(adapted, lr=1e-2)
    with pytest.raises(ConfigError, match=said), recorder.training(adapted, optimizer):
        example().train(adapted, optimizer, recorder.batches())


@pytest.mark.parity
def test_dropout_is_said(golden: Golden) -> None:
    peft, recorder = pytest.importorskip("peft"), Recorder(golden.trace)
    config = peft.LoraConfig(r=2, target_modules=list(recorder.golden.shapes), lora_dropout=0.1)
    adapted = peft.get_peft_model(golden.loaded(), config).train()
    optimizer = optimizer_of(adapted, lr=1e-2)
    with pytest.warns(UserWarning, match="dropout is on .*q_proj.lora_dropout"), recorder.training(adapted, optimizer):
        example().train(adapted, optimizer, recorder.batches())


def test_an_adapter_with_more_than_a_and_b_is_refused() -> None:
    A, B = np.ones((2, 4)), np.zeros((3, 2))
    for more, kind in (
        ({"lora_E": {"x": np.ones((2, 1))}}, "AdaLoRA"),
        ({"lora_magnitude_vector": {"x": [1.0]}}, "DoRA"),
        ({"lora_variant": {"x": Lora(A, B, 1.0)}}, "Lora"),
    ):
        module = Lora({"x": A}, {"x": B}, {"x": 1.0}, active_adapter="x", **more)
        with pytest.raises(ConfigError, match=f"adapter of m is {kind}: TLoRA's modules are"):
            adapters_of({"m": module})
    assert adapters_of({"m": Lora({"x": A}, {"x": B}, {"x": 1.0}, active_adapter="x", lora_magnitude_vector={})})
