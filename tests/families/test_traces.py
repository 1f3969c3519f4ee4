"""The recorded cases of tests/data/traces from a checkpoint folder to the trained adapter, through the public doors.

The recorder computed in true float64 from the same float32 weights, so the two agree to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.method.recorded import TRACES, Recorded, recorded
from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.checkpoint import load_model
from tlora_ref.method.adamw import adamw_step
from tlora_ref.transformer import Model

CASES = ("a_llama_gqa", "d_qwen2", "g_t5_gated")
case = pytest.mark.parametrize("case", CASES)


def close(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


def samples(record: Recorded) -> list[dict[str, np.ndarray]]:
    fields = ("input_ids", "labels")
    return [{f: record.truth[f"sample.{i}.{f}"] for f in fields} for i in range(record.settings["N"])]


def recorded_adapter(record: Recorded) -> Adapter:
    """A as it was recorded (the signs of its rows are arbitrary), B = 0."""
    adapter = Adapter({}, {}, {})
    for m in record.modules:
        if f"paper.A/{m}" in record.truth:
            adapter.A[m] = record.truth[f"paper.A/{m}"]
            adapter.B[m] = np.zeros((record.shapes()[m][0], len(adapter.A[m])))
            adapter.scale[m] = record.scalar("paper.scaling", m)
    return adapter


@case
def test_loss_and_logits(case: str) -> None:
    record, model = recorded(case), load_model(TRACES / case / "checkpoint")
    close([model(**s).loss.item() for s in samples(record)], record.truth["base.loss"])
    close(model(**samples(record)[0]).logits, record.truth["base.logits.0"])


@case
@pytest.mark.parametrize(("profile", "column"), [("paper", "paper"), ("released", "official")])
def test_calibration(case: str, profile: str, column: str) -> None:
    record, model = recorded(case), load_model(TRACES / case / "checkpoint")
    stats = tr.calibrate(model, samples(record), record.settings["targets"], profile=profile)
    assert list(stats.covariance) == record.modules
    for m in record.modules:
        close(stats.covariance[m], record.truth[f"{column}.cov/{m}"])
        close(stats.sensitivity[m], record.scalar(f"{column}.score", m))


@case
def test_calibration_allocation_and_initialisation(case: str) -> None:
    record, model = recorded(case), load_model(TRACES / case / "checkpoint")
    stats = tr.calibrate(model, samples(record), record.settings["targets"])
    settings = record.settings
    plan = tr.allocate(stats.sensitivity, model.shapes(settings["targets"]), settings["r_init"], settings["alpha"])
    adapter = tr.initialize(model, stats, plan, spectrum=True)
    for m in record.modules:
        assert plan.rank[m] == record.scalar("paper.rank_used", m)
        assert adapter.scale.get(m, plan.scale(m)) == pytest.approx(record.scalar("paper.scaling", m), rel=1e-9)
        if m in adapter.sigma:
            close(adapter.sigma[m], record.truth[f"paper.S/{m}"])


def trained(model: Model, record: Recorded, adapter: Adapter) -> list[float]:
    """The recorder's five steps of AdamW, one sample each; returns the losses and leaves B trained."""
    settings, data, losses = record.settings["optimizer"], samples(record), []
    moments = {m: (np.zeros_like(B), np.zeros_like(B)) for m, B in adapter.B.items()}
    rate = {"lr": settings["lr"], "eps": settings["eps"], "weight_decay": settings["weight_decay"]}
    model.attach(adapter)
    for step, sample in enumerate(record.truth["train.sample_index"], start=1):
        out = model(**data[int(sample)])
        losses.append(out.loss.item())
        slopes = grad(out.loss, [f"{m}.lora_B.weight" for m in adapter.B])
        for m in adapter.B:
            slope = slopes[f"{m}.lora_B.weight"]
            if step == 1:
                close(slope, record.truth[f"train.grad1/{m}"])
            adapter.B[m], *new = adamw_step(adapter.B[m], slope, *moments[m], step=step, **rate)
            moments[m] = (new[0], new[1])
    return losses


@case
def test_training(case: str) -> None:
    record, model = recorded(case), load_model(TRACES / case / "checkpoint")
    adapter = recorded_adapter(record)
    close(trained(model, record, adapter), record.truth["train.loss"])
    for m, B in adapter.B.items():
        close(B, record.truth[f"train.B/{m}"])
    data = samples(record)
    close([model(**s).loss.item() for s in data], record.truth["train.final_loss"])
    close(model(**data[0]).logits, record.truth["train.final_logits.0"])
    merged = model.merge(adapter)
    model.detach()
    close(merged(**data[0]).logits, record.truth["train.final_logits.0"])
