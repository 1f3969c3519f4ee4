"""What a notebook prints for a model, an adapter and the rest: short, and with the numbers one looks for."""

from __future__ import annotations

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref import names
from tlora_ref.adapter import Adapter
from tlora_ref.autograd import Tensor, leaf
from tlora_ref.calibration import CalibrationStats

LAYERS = 80
KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
LARGE = {f"model.layers.{i}.{kind}": (64, 48) for i in range(LAYERS) for kind in KINDS}
S = {module: 1.0 + i for i, module in enumerate(LARGE)}


def short(value: object) -> str:
    text = repr(value)
    assert len(text.splitlines()) <= 10 and max(map(len, text.splitlines())) <= 300, text
    return text


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_says_what_it_is(name: str) -> None:
    model = tiny_model(name)
    text = short(model)
    assert text.startswith(f"{type(model).__name__} ({model.config.model_type}, {model.task_type}): ")
    assert f"{model.parameter_count():,} weights in float32 on cpu" in text
    assert f"{len(model.shapes())} target modules" in text and "adapter: none" in text
    adapter = tr.initialize(
        model, None, tr.allocate(dict.fromkeys(model.shapes(), 1.0), model.shapes(), 1, 1.0), init="w-svd"
    )
    model.attach(adapter)
    assert f"adapter: on {len(adapter.A)} modules" in short(model)
    short(adapter), short(adapter.plan)


def test_a_model_lists_its_targets_by_kind() -> None:
    assert "q_proj 2 x (16, 16), k_proj 2 x (8, 16)" in repr(tiny_llama())


def test_a_plan_of_a_large_model() -> None:
    plan = tr.allocate(S, LARGE, 8, 16.0)
    text = short(plan)
    assert "profile paper" in text and "240 modules at r_init 8, alpha 16" in text
    assert f"ranks 0 to 16, sum {sum(plan.rank.values())} of 1920; {list(plan.rank.values()).count(0)} without" in text
    assert f"{plan.trainable_parameters:,}" in text
    first, note = next(iter(plan.notes.items()))
    assert f"notes: {len(plan.notes)}, the first on {first}: {note}" in text
    assert "uniform ranks" in short(tr.allocate(S, LARGE, 8, 16.0, adapt_rank=False))
    assert "uniform scales alpha/r_i" in short(tr.allocate(S, LARGE, adapt_scale=False, uniform_scale="alpha/r_i"))


def test_an_adapter_of_a_large_model() -> None:
    A = {module: np.full((1 + (i % 3 == 1), 48), 0.1) for i, module in enumerate(LARGE)}
    B = {module: np.zeros((64, len(A[module]))) for module in LARGE}
    adapter = Adapter(A, B, dict.fromkeys(LARGE, 0.5), saved={f"head.{i}": np.ones(2) for i in range(9)})
    text = short(adapter)
    assert "no plan, A frozen): 240 modules in float64" in text
    assert "ranks 1 to 2, sum 320; scales 0.5" in text
    assert "q_proj 1.0, v_proj 2.0, up_proj 1.0" in text and "B: zero" in text
    assert "head.0, head.1, head.2, head.3 ..." in text
    B["model.layers.7.mlp.up_proj"][3, 0] = -0.25
    assert "B: largest entry 0.25" in short(adapter)
    assert "0 modules" in short(Adapter({}, {}, {}))


def test_statistics() -> None:
    stats = CalibrationStats(4, LARGE, {}, {"C": np.zeros((48, 48))}, S, [2.0, 3.5])
    text = short(stats)
    assert "4 samples, 240 modules, 1 covariances (0.0 MB of float64)" in text and "losses 2 to 3.5" in text
    assert "S from 0.25 (model.layers.0.self_attn.q_proj) to 60 (model.layers.79.mlp.up_proj)" in text
    total = sum(S.values())
    share = sum(s for module, s in S.items() if module.endswith("q_proj")) / total
    assert f"share of S: q_proj {share:.1%}" in text
    assert "0 samples" in short(CalibrationStats(0, {}, {}, {}, {}))
    short(stats.covariance)


def test_a_scalar_shows_its_value_and_a_matrix_its_shape() -> None:
    assert repr(Tensor(np.float64(2.5))) == "Tensor(2.5, dtype=float64, constant)"
    assert repr(leaf(np.zeros((2, 3), "float32"), "W")) == "Tensor(shape=(2, 3), dtype=float32, watched)"
    out = tiny_llama()(**tiny_samples(1)[0])
    assert f"{float(out.loss):.6g}" in short(out.loss) and f"loss={float(out.loss):.6g}" in short(out)
    assert repr(tiny_llama()([1, 2])) == "Output(no loss)"


def test_a_training_run_shows_its_first_and_last_loss() -> None:
    model, samples = tiny_llama(), tiny_samples(4)
    plan = tr.allocate(dict.fromkeys(model.shapes(), 1.0), model.shapes(), 2, 2.0)
    result = tr.train(model, tr.initialize(model, None, plan, init="w-svd"), samples, steps=3, batch_size=2)
    losses = [entry["loss"] for entry in result.history]
    assert "3 steps" in short(result) and f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last" in repr(result)


@pytest.mark.parametrize(
    ("modules", "kinds"),
    [
        (["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "lm_head"], ["q_proj", "lm_head"]),
        (["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.mlp.c_fc"], ["attn.c_proj", "mlp.c_proj", "c_fc"]),
        (["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.1.EncDecAttention.q"],
         ["SelfAttention.q", "EncDecAttention.q"]),
    ],
)  # fmt: skip
def test_kinds_are_named_by_the_shortest_end_that_tells_them_apart(modules: list[str], kinds: list[str]) -> None:
    assert list(names.by_kind(dict.fromkeys(modules, 1))) == kinds


def test_many_kinds_are_cut() -> None:
    told = names.told_by_kind({f"layer.0.k{i}": float(i) for i in range(20)}, names.mean)
    assert told.startswith("k0 0.0, k1 1.0") and told.endswith("k7 7.0, and 12 more kinds")
