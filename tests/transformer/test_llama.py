"""Llama against a recorded PyTorch run, finite differences, and itself in other shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.errors import ConfigError, DataError, ShapeError
from tlora_ref.transformer.llama import Llama, LlamaConfig
from tlora_ref.transformer.rope import Rope, rotary_tables

CASE = Path(__file__).resolve().parents[1] / "data" / "traces" / "a_llama_gqa"
BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_recorded_losses_logits_and_training_gradients() -> None:
    model, truth = tr.load_model(CASE / "checkpoint"), load_file(CASE / "truth.safetensors")
    settings = json.loads((CASE / "truth.json").read_text())["settings"]
    for n in range(settings["N"]):
        output = model(truth[f"sample.{n}.input_ids"], labels=truth[f"sample.{n}.labels"])
        assert output.loss.item() == pytest.approx(truth["base.loss"][n], rel=1e-12)
        if n == 0:
            np.testing.assert_allclose(output.logits, truth["base.logits.0"], rtol=1e-11, atol=1e-12)
    A = {name: truth[f"paper.A/{name}"] for name in model.shapes() if f"paper.A/{name}" in truth}
    scale = {name: float(truth[f"paper.scaling/{name}"][0]) for name in A}
    adapter = tr.Adapter(A, {name: np.zeros((model.shapes()[name][0], len(a))) for name, a in A.items()}, scale)
    data = [{k: truth[f"sample.{i}.{k}"] for k in ("input_ids", "labels")} for i in truth["train.sample_index"]]
    model.attach(adapter)
    gradients = tr.grad(model(**data[0]).loss, [f"{name}.lora_B.weight" for name in A])
    largest = max(np.abs(truth[f"train.grad1/{name}"]).max() for name in A)
    for name in A:
        np.testing.assert_allclose(
            gradients[f"{name}.lora_B.weight"], truth[f"train.grad1/{name}"], rtol=1e-9, atol=1e-12 * largest
        )


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_every_weight_by_finite_differences(tied: bool) -> None:
    model, sample = tiny_llama(tie_word_embeddings=tied, attention_bias=True, mlp_bias=True), tiny_samples(1)[0]
    gradients = tr.grad(model(**sample).loss, model.tensors)
    rng = np.random.default_rng(0)
    for name, W in model.tensors.items():
        direction = rng.standard_normal(W.shape)
        ends = []
        for step in (1e-5, -1e-5):
            model.tensors[name] = W + step * direction
            ends.append(model(**sample).loss.item())
        model.tensors[name] = W
        slope = (ends[0] - ends[1]) / 2e-5
        assert (gradients[name] * direction).sum() == pytest.approx(slope, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_at_the_tokens(side: str) -> None:
    model, rows = tiny_llama(), [sample["input_ids"] for sample in tiny_samples(3)]
    width = max(map(len, rows)) + 2
    ids, mask, labels = (np.full((3, width), fill) for fill in (7, 0, -100))
    for i, row in enumerate(rows):
        where = slice(width - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where], labels[i, where] = row, 1, row
    output = model(ids, attention_mask=mask, labels=labels)
    total = 0.0
    for i, row in enumerate(rows):
        alone = model(row, labels=row)
        np.testing.assert_allclose(output.logits[i][mask[i] == 1], alone.logits, rtol=1e-9, atol=1e-11)
        total += alone.loss.item() * (len(row) - 1)
    # With padding on the left, the first token is predicted from padding: its label must be taken out by hand.
    if side == "right":
        assert output.loss.item() == pytest.approx(total / sum(len(row) - 1 for row in rows), rel=1e-12)


def test_generation_with_and_without_the_cache_one_by_one_and_batched() -> None:
    model, rows = tiny_llama(), [sample["input_ids"] for sample in tiny_samples(3)]
    width = max(map(len, rows))
    ids, mask = np.zeros((3, width), dtype=int), np.zeros((3, width), dtype=int)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    batched = model.generate(ids, attention_mask=mask, max_new_tokens=9)
    for i, row in enumerate(rows):
        alone = model.generate(row, max_new_tokens=9)
        assert alone.tolist() == model.generate(row, max_new_tokens=9, use_cache=False).tolist()
        by_hand = list(row)
        for _ in range(9):
            by_hand.append(int(model(by_hand).logits[-1].argmax()))
        assert alone.tolist() == by_hand
        assert batched[i, -9:].tolist() == by_hand[-9:]
    stop = int(model.generate(rows[0], max_new_tokens=3)[len(rows[0]) + 1])
    ended = model.generate(rows[0], max_new_tokens=9, eos_token_id=stop)
    assert ended[-1] == stop and len(ended) <= len(rows[0]) + 2


def test_B_zero_leaves_every_bit_and_merging_equals_attaching() -> None:
    model, sample = tiny_llama(), tiny_samples(1)[0]
    base = model(**sample).logits
    plan = tr.allocate(dict.fromkeys(model.shapes(), 1.0), model.shapes(), 3, 3)
    adapter = tr.initialize(model, None, plan, init="w-svd")
    model.attach(adapter)
    assert np.array_equal(model(**sample).logits, base)
    rng = np.random.default_rng(1)
    adapter.B = {name: rng.standard_normal(B.shape) for name, B in adapter.B.items()}
    attached = model(**sample).logits
    assert np.abs(attached - base).max() > 0.1
    model.detach()
    assert np.array_equal(model(**sample).logits, base)
    np.testing.assert_allclose(model.merge(adapter)(**sample).logits, attached, rtol=1e-10, atol=1e-11)


def test_the_parameter_counts_of_llama_2_7b() -> None:
    config = LlamaConfig.from_dict(
        {**BASE, "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
        | {"num_hidden_layers": 32, "num_attention_heads": 32}
    )
    shapes = Llama.target_shapes(config)
    for r, lora, frozen in ((128, 319_815_680, 174_063_616), (32, 79_953_920, 43_515_904)):
        assert sum(r * (d_out + d_in) for d_out, d_in in shapes.values()) == lora
        assert sum(r * d_out for d_out, _ in shapes.values()) == frozen


def test_targets_by_path_ending_and_expression() -> None:
    model = tiny_llama()
    assert list(model.shapes("model.layers.1.self_attn.q_proj")) == ["model.layers.1.self_attn.q_proj"]
    assert list(model.shapes(["v_proj", "lm_head"])) == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "lm_head",
    ]
    assert len(model.shapes(r".*layers\.0\..*")) == 7
    assert len(model.shapes()) == 14
    for bad, match in (("proj_q", "matches no linear module"), ("(", "no valid regular expression")):
        with pytest.raises(ConfigError, match=match):
            model.shapes(bad)


def test_rope_frequencies() -> None:
    like, positions = np.zeros(1), np.array([[0, 3, 8]])
    cos, sin = rotary_tables(Rope(theta=500.0), 8, positions, like)
    angles = np.outer([0, 3, 8], [1, 500**-0.25, 500**-0.5, 500**-0.75])
    np.testing.assert_allclose((cos + 1j * sin)[0, :, 0], np.exp(1j * angles), rtol=1e-13)
    cos, sin = rotary_tables(Rope(500.0, "linear", {"factor": 4.0}), 8, positions, like)
    np.testing.assert_allclose((cos + 1j * sin)[0, :, 0], np.exp(1j * angles / 4), rtol=1e-13)


def test_configurations_that_cannot_be_computed_are_refused_by_name() -> None:
    for changes, match in (
        ({"rope_scaling": {"rope_type": "spiral"}}, 'rope type "spiral"'),
        ({"hidden_act": "swoosh"}, 'activation "swoosh"'),
        ({"quantization_config": {}}, "quantised"),
        ({"some_new_feature": True}, "some_new_feature"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 3}, "even"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"vocab_size": None}, '"vocab_size" is missing'),
    ):
        with pytest.raises(ConfigError, match=match):
            LlamaConfig.from_dict({**BASE, **changes})


def test_bad_inputs_are_named() -> None:
    model = tiny_llama()
    for arguments, error, match in (
        (([1, 31],), DataError, "token id 31"),
        (([1, -1],), DataError, "token id -1"),
        (([1.5, 2.0],), DataError, "integer"),
        (([],), ShapeError, "at least one token"),
        (([[[1]]],), ShapeError, "shape"),
        (([1, 2], [1]), ShapeError, "attention_mask"),
        (([1, 2], [0, 0]), DataError, "all padding"),
        (([1, 2], None, [1]), ShapeError, "labels"),
        (([1, 2], None, [5, -100]), DataError, "no label is scored"),
        (([1, 2], None, [5, 77]), DataError, "labels hold 77"),
    ):
        with pytest.raises(error, match=match):
            model(*arguments)
    with pytest.raises(ConfigError, match="no loss"):
        _ = model([1, 2]).loss
    with pytest.raises(ConfigError, match="token_type_ids"):
        model([1, 2], token_type_ids=[0, 0])
    with pytest.raises(ConfigError, match="no module"):
        model.weight("model.layers.9.self_attn.q_proj")
    wrong = tr.Adapter({"lm_head": np.zeros((2, 5))}, {"lm_head": np.zeros((31, 2))}, {"lm_head": 1.0})
    with pytest.raises(ShapeError, match="another model"):
        model.attach(wrong)
