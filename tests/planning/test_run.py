"""What is planned of a run: its arithmetic, by measurements that are set; its steps and evaluations, by the run's own;
and that a plan is about what then happens."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS
from tests.tiny import tiny_llama
from tlora_ref.data import pad_batch
from tlora_ref.planning import measure, run, shallow
from tlora_ref.planning import time as planning_time
from tlora_ref.planning.shallow import DEPTHS
from tlora_ref.transformer import family

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny-math-llama"
LENGTHS = (9, 4, 30, 12, 7, 21, 5, 16)


def rows(lengths: tuple[int, ...] = LENGTHS) -> list[dict[str, Any]]:
    """Samples of which the last three tokens are scored."""
    return [{"input_ids": [3] * n, "labels": [-100] * (n - 3) + [3] * 3} for n in lengths]


@pytest.fixture
def deep(tmp_path: Path) -> tr.MemoryPlan:
    tr.save_model(tiny_llama(num_hidden_layers=9), tmp_path / "deep")
    return tr.plan_memory(tmp_path / "deep", 2)


def test_what_is_measured_on_two_layers_is_scaled_to_all(deep: tr.MemoryPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token takes 2 s a layer forth and back, a scored label 5 s, AdamW 0.5 s a layer; so do the other parts."""

    def layers_of(model: tr.Model) -> int:
        return model.config.num_hidden_layers

    def pass_of(model: tr.Model, batch: Any) -> float:
        return 2.0 * layers_of(model) * batch["input_ids"].size + share(model) * 5.0 * planning_time.scored(batch)

    def share(model: tr.Model) -> float:
        return model.config.vocab_size / 31 if model.config.num_hidden_layers == 1 else 0.0

    def training_pass(probe: Any, _memory: Any, batch: Any) -> measure.Pass:
        return measure.Pass(
            *probe.parts(pass_of(probe.body, batch), lambda model: pass_of(model, batch)),
            measure.Held(0.0, 10.0 * probe.layers * batch["input_ids"].size),
        )

    def calibration(probe: Any, _memory: Any, samples: Any) -> tuple[float, measure.Held, None]:
        tokens = sum(len(sample["input_ids"]) for sample in samples)
        return 3.0 * layers_of(probe.body) * tokens * probe.layers, measure.Held(0.0, 7.0 * tokens), None

    monkeypatch.setattr(measure, "training_pass", training_pass)
    monkeypatch.setattr(measure, "update", lambda probe, *_: 0.5 * layers_of(probe.body) * probe.layers)
    monkeypatch.setattr(measure, "calibration", calibration)
    monkeypatch.setattr(measure, "initialisation", lambda probe, *_: 4.0 * layers_of(probe.body) * probe.layers)
    monkeypatch.setattr(
        measure,
        "evaluation_pass",
        lambda probe, _, batch: (9.0 * batch["input_ids"].size, 1.0 * planning_time.scored(batch)),
    )
    monkeypatch.setattr(planning_time, "WHOLE_WEIGHTS", 0)
    monkeypatch.setattr(planning_time, "blas_threads", lambda: 1)
    settings = tr.TrainSettings(batch_size=4, grad_accumulation=2, steps=3)
    found = tr.plan_run(deep, rows(), rows((6, 8)), samples=4, settings=settings, eval_every=2)
    passes = next(run.step_batches(rows(), settings, 0, 3, 0))
    padded = sum(batch["input_ids"].size for batch in passes)
    assert found.seconds["step"] == pytest.approx(2.0 * 9 * padded + 5.0 * 8 * 3 + 0.5 * 9)
    assert found.seconds["initialisation"] == pytest.approx(4.0 * 9)
    assert found.seconds["evaluation"] == pytest.approx(9.0 * 16 + 1.0 * 6)
    drawn, _ = run.choose_samples(rows(), 4, 42)
    tokens = sum(len(sample["input_ids"]) for sample in drawn)
    assert found.seconds["calibration"] == pytest.approx(3.0 * 9 * tokens + 5.0 * 4 * 3)
    assert found.evaluations == 3  # before all steps, after the second and after the last
    parts = found.seconds["calibration"] + 36 + 3 * found.seconds["step"] + 3 * found.seconds["evaluation"]
    assert found.total_seconds == pytest.approx(parts) and found.measured
    taken = deep.bytes("float32")
    known = taken["weights"] + taken["adapter"] + 3 * taken["adamw_moments"] + planning_time.LOGITS
    largest = max(batch["input_ids"].size for batch in passes)
    assert 0 < found.peak_bytes["training"] - known - 10 * 4.5 * largest < 4e9  # the process itself


@pytest.mark.parametrize(("steps", "eval_every"), [(5, None), (6, 2), (7, 2), (3, 9), (9, 3)])
def test_evaluations_are_those_that_training_makes(steps: int, eval_every: int | None) -> None:
    model = tiny_llama()
    stats = tr.calibrate(model, rows()[:2])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 2))
    every = eval_every or 4  # steps of an epoch
    options: dict[str, Any] = {"steps": steps, "batch_size": 2, "valid": rows((5,)), "eval_every": every}
    history = tr.train(model, adapter, rows(), **options).history
    made = 1 + sum("valid_loss" in entry for entry in history)  # the first one is the command's, before all steps
    assert run.evaluations(steps, every) == made


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_part_of_a_batch_has_labels_and_goes_in_halves_where_the_whole_does(batch_size: int) -> None:
    batch = pad_batch(
        [{"input_ids": [4] * n, "labels": [4] * 2 + [-100] * (n - 2)} for n in (90, 400, 300)][:batch_size]
    )
    for fit in (1, 100, 10_000):
        found = planning_time.part(batch, fit)
        assert planning_time.scored(found) >= 1 and planning_time.padded(found) <= planning_time.padded(batch)
        assert fit > 512 or (found["attention_mask"] == 1).all()
        assert planning_time.padded(found) >= (512 if batch_size > 1 else min(90, max(32, fit)) - 1) or fit > 512


def deeper(name: str, folder: Path, layers: int) -> Path:
    """A family's tiny checkpoint with so many layers."""
    values = {key: value for key, value in MODELS[name].items() if key not in ("layer_types", "full_attn_idxs")}
    config_class, model_class = family(values["model_type"], values.get("architectures"))
    whole = {key: layers for key in DEPTHS if key in values}
    if name.startswith("granitemoehybrid"):
        whole["layer_types"] = ["attention"] * layers
    config = config_class.from_dict({**values, **whole})
    tensors = {n: np.zeros(shape, dtype="float32") for n, shape in model_class.tensor_shapes(config).items()}
    tr.save_model(model_class(config, tensors), folder)
    return folder


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_has_a_shallow_model_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "REPEATED", 1e-9)
    monkeypatch.setattr(planning_time, "WHOLE_WEIGHTS", 0)
    memory = tr.plan_memory(deeper(name, tmp_path / "model", 5), 2)
    if memory.family.task_type == tr.Model.task_type:
        with pytest.raises(tr.TLoRAError, match="bare encoder"):
            tr.plan_run(memory, tokens=8)
        return
    probe = shallow.shallow(memory, whole=False, kept=shallow.Kept())
    assert probe.layers == pytest.approx(2.5, rel=0.3)  # layers of two kinds differ
    found = tr.plan_run(memory, tokens=8, samples=2, settings=tr.TrainSettings(batch_size=2, steps=3))
    assert all(took >= 0 and math.isfinite(took) for took in found.seconds.values()) and found.seconds["step"] > 0
    monkeypatch.setattr(planning_time, "WHOLE_WEIGHTS", 10**9)
    assert shallow.shallow(memory, whole=True, kept=shallow.Kept()).whole
    assert tr.plan_run(memory, tokens=8, samples=2, settings=tr.TrainSettings(batch_size=2)).seconds["step"] > 0


def test_weights_that_are_held_are_measured_held(deep: tr.MemoryPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    body = shallow.shallow(deep, whole=False, kept=shallow.Kept(hold="bfloat16")).body
    assert body.recompute and shallow.shallow(deep, whole=True, kept=shallow.Kept(recompute=True)).body.recompute
    assert body.tensors["model.layers.0.mlp.up_proj.weight"].dtype == "bfloat16" and body.dtype == "float32"
    monkeypatch.setattr(measure, "REPEATED", 1e-9)
    monkeypatch.setattr(run, "_own_bytes", lambda: 0)
    monkeypatch.setattr(measure, "training_pass", lambda *_: measure.Pass(1.0, 0.0, measure.Held(0.0, 0.0)))
    held, wide = (tr.plan_run(deep, tokens=8, hold=hold).peak_bytes["training"] for hold in ("bfloat16", None))
    assert wide - held == deep.bytes("float32")["weights"] - deep.bytes("float32", "bfloat16")["weights"] > 0


@pytest.mark.parametrize(("hold", "recompute"), [(None, False), (None, True), ("bfloat16", False)])
@pytest.mark.parametrize("measured", [1.0, 0.25])
def test_what_a_pass_holds_follows_from_two_layers_and_fewer_tokens(
    hold: str | None, recompute: bool, measured: float, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 9, "max_position_embeddings": 512}
    tr.save_model(tiny_llama(**sizes), tmp_path / "model")
    memory, kept = tr.plan_memory(tmp_path / "model", 2), shallow.Kept("float32", hold, recompute)

    def batch(tokens: int) -> dict[str, np.ndarray]:
        ids = np.arange(tokens)[None] % 20 + 5
        return {"input_ids": ids, "labels": ids}

    probe = shallow.shallow(memory, whole=False, kept=kept)
    planned = measure.training_pass(probe, memory, batch(int(400 * measured))).held.of(1.0 / measured)
    whole = shallow.shallow(memory, whole=True, kept=kept)
    taken = measure.training_pass(whole, memory, batch(400)).held.of(1.0)
    assert taken / 1.3 < planned < taken * 1.3
    model = whole.body
    arrays = {f"{m}.lora_B.weight": B for m, B in model.adapter.B.items()}  # type: ignore[union-attr]
    step = measure.peak_of(lambda: measure.step_gradients(model, arrays, [batch(400)]))
    assert taken / 1.3 < step < taken * 1.3


def test_a_step_takes_about_what_was_planned() -> None:
    """Loosely, as the machine may be busy; figures of a quiet one are in the planning room's README."""
    memory = tr.plan_memory(SHIPPED)
    samples = [{"input_ids": list(range(2, 50)), "labels": list(range(2, 50))}] * 8
    planned = tr.plan_run(memory, samples, samples=2)
    model = tr.load_model(SHIPPED, "float32")
    stats = tr.calibrate(model, samples[:2])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 8, 8))
    times: list[float] = []
    tr.train(model, adapter, samples, steps=8, on_step=lambda _: times.append(time.perf_counter()))
    steps = sorted(after - before for before, after in itertools.pairwise(times))
    assert 0.2 < planned.seconds["step"] / steps[len(steps) // 2] < 5
