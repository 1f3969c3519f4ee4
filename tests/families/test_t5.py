"""T5 without transformers: gradients, buckets, padding, cache, names, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.common import check_finite_differences, made
from tests.families.make_tiny import T5 as SIZES
from tests.method.recorded import recorded
from tlora_ref.autograd import grad
from tlora_ref.checkpoint import load_model, save_model
from tlora_ref.errors import CheckpointError, ConfigError, DataError, ShapeError
from tlora_ref.transformer import family
from tlora_ref.transformer.t5 import T5, T5Config, relative_buckets

RELU: dict[str, Any] = {**SIZES, "model_type": "t5", "feed_forward_proj": "relu"}
GATED: dict[str, Any] = {**RELU, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
both = pytest.mark.parametrize("values", [RELU, GATED], ids=["relu", "gated"])
BASE = {"model_type": "t5", "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}


def batch(side: str = "right", seed: int = 0) -> dict[str, np.ndarray]:
    """Prompts of 7, 4 and 1 tokens padded on one side, and answers of 3, 5 and 2 padded on the right."""
    rng = np.random.default_rng(seed)
    ids, mask, labels = np.zeros((3, 7), dtype=int), np.zeros((3, 7), dtype=int), np.full((3, 5), -100)
    for row, (length, answer) in enumerate(zip((7, 4, 1), (3, 5, 2), strict=True)):
        at = slice(0, length) if side == "right" else slice(7 - length, 7)
        ids[row, at], mask[row, at] = rng.integers(2, 31, length), 1
        labels[row, :answer] = rng.integers(2, 31, answer)
    labels[1, 1] = -100  # not scored, and read by the decoder as padding
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows_of(padded: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each row's prompt and labels alone."""
    lengths = (3, 5, 2)
    return [(ids[mask == 1], labels[:n]) for ids, mask, labels, n in zip(*padded.values(), lengths, strict=True)]


# ---------------------------------------------------------------------------------------------- the forward pass
@both
@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients(values: dict[str, Any], side: str) -> None:
    check_finite_differences(made(values), batch(side))


@both
def test_padding_on_either_side_changes_nothing(values: dict[str, Any]) -> None:
    model = made(values)
    for side in ("right", "left"):
        padded = batch(side)
        noisy = np.where(padded["attention_mask"] == 1, padded["input_ids"], 17)
        logits = model(**{**padded, "input_ids": noisy}).logits
        for row, (ids, labels) in enumerate(rows_of(padded)):
            alone = model(ids, labels=labels)
            np.testing.assert_allclose(logits[row, : len(labels)], alone.logits, rtol=0, atol=1e-11)


def test_loss_is_the_mean_over_scored_labels() -> None:
    model, padded = made(RELU), batch()
    out = model(**padded)
    assert out.tokens == 9
    p = np.exp(out.logits) / np.exp(out.logits).sum(axis=-1, keepdims=True)
    scored = [-np.log(p[i, t, y]) for (i, t), y in np.ndenumerate(padded["labels"]) if y != -100]
    assert out.loss.item() == pytest.approx(np.mean(scored), rel=1e-12)
    assert model(**padded, loss_divisor=18).loss.item() == pytest.approx(out.loss.item() / 2, rel=1e-12)


def test_the_decoder_reads_labels_shifted_right() -> None:
    values = {**RELU, "decoder_start_token_id": 5, "pad_token_id": 3}
    model, ids = made(values), [4, 9, 2]
    given = model(ids, decoder_input_ids=[5, 7, 3, 8]).logits
    assert (model(ids, labels=[7, -100, 8, 6]).logits == given).all()
    both_given = model(ids, labels=[1, 1, 1, -100], decoder_input_ids=[5, 7, 3, 8])
    assert (both_given.logits == given).all()
    assert both_given.tokens == 3


def test_decoder_padding_on_the_left() -> None:
    # Distances alone enter the bias, so tokens after padding are what they would be without it.
    model = made(GATED)
    plain = model([4, 9, 2], decoder_input_ids=[0, 7, 8]).logits
    padded = model([4, 9, 2], decoder_input_ids=[11, 11, 0, 7, 8], decoder_attention_mask=[0, 0, 1, 1, 1]).logits
    np.testing.assert_allclose(padded[2:], plain, rtol=0, atol=1e-12)


def test_tied_weights_and_the_scale() -> None:
    tied, ids = made(RELU), {"input_ids": [4, 9, 2], "labels": [5, 1]}
    assert "lm_head.weight" not in tied.tensors
    free = T5(
        made({**RELU, "tie_word_embeddings": False}).config,
        {**tied.tensors, "lm_head.weight": tied.tensors["shared.weight"]},
    )
    np.testing.assert_allclose(free(**ids).logits / 4, tied(**ids).logits, rtol=1e-12)  # 16 ** -0.5
    whole = grad(tied(**ids).loss, ["shared.weight"])["shared.weight"]
    assert (np.abs(whole).max(axis=1) > 0).all()  # as the output matrix, every row has a gradient
    parts = grad(free(**ids).loss, ["shared.weight", "lm_head.weight"])
    assert set(np.nonzero(np.abs(parts["shared.weight"]).max(axis=1))[0]) == {0, 2, 4, 5, 9}


def test_float32_stays_float32() -> None:
    model, wide = made(GATED, dtype="float32"), made(GATED)
    out = model(**batch())
    assert out.logits.dtype == np.float32
    assert all(g.dtype == np.float32 for g in grad(out.loss, list(model.tensors)).values())
    assert out.loss.item() == pytest.approx(wide(**batch()).loss.item(), rel=1e-4)


# ---------------------------------------------------------------------------------------------- relative bias
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_recorded_buckets(side: str) -> None:
    distance, bucket = recorded("g_t5_gated").truth[f"t5.bucket_of_relative_position.{side}"]
    made_here = relative_buckets(distance, bidirectional=side == "encoder", n_buckets=8, max_distance=16)
    assert (made_here == bucket).all()


def test_buckets_of_the_published_models() -> None:
    def bucket(distance: int, bidirectional: bool) -> int:
        return int(relative_buckets(np.array(distance), bidirectional=bidirectional, n_buckets=32, max_distance=128))

    # 8 single distances and 8 ranges each way, which start sqrt(2) times as far as the one before: 8, 12, 16, 23 ...
    for i, first in enumerate([8, 12, 16, 23, 32, 46, 64, 91]):
        assert [bucket(-first + 1, True), bucket(-first, True)] == [7 + i, 8 + i]
        assert bucket(first, True) == 16 + 8 + i
    assert [bucket(d, True) for d in (0, -1, 1, -1000, 1000)] == [0, 1, 17, 15, 31]
    assert [bucket(d, False) for d in (0, 5, -15, -16, -127, -128, -9999)] == [0, 0, 15, 16, 31, 31, 31]


def test_one_table_serves_all_blocks_of_its_stack() -> None:
    model = made(RELU)
    tables = [name for name in model.tensors if "relative_attention_bias" in name]
    assert tables == [
        f"{s}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for s in ("encoder", "decoder")
    ]
    silent = {name: np.zeros_like(model.tensors[name]) for name in tables}
    for name in tables:
        other = T5(model.config, {**model.tensors, name: silent[name]})
        assert np.abs(other(**batch()).logits - model(**batch()).logits).max() > 1e-3


# ---------------------------------------------------------------------------------------------- generation
@both
def test_generation_with_and_without_the_cache(values: dict[str, Any]) -> None:
    model = made(values)
    for options in ({}, {"temperature": 0.8, "top_p": 0.9, "seed": 3}):
        for side in ("right", "left"):
            padded = batch(side)
            prompt = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
            cached = model.generate(**prompt, max_new_tokens=8, eos_token_id=-1, **options)
            assert cached.shape == (3, 9)
            assert (
                cached == model.generate(**prompt, max_new_tokens=8, eos_token_id=-1, use_cache=False, **options)
            ).all()
            if not options:
                for row, (ids, _) in enumerate(rows_of(padded)):
                    assert (model.generate(ids, max_new_tokens=8, eos_token_id=-1) == cached[row]).all()


def test_generation_is_greedy_and_ends() -> None:
    model, ids = made(RELU), [4, 9, 2]
    free = model.generate(ids, max_new_tokens=6, eos_token_id=-1)
    assert free[0] == 0
    logits = model(ids, decoder_input_ids=free[:-1]).logits
    assert (logits.argmax(axis=1) == free[1:]).all()
    steps: list[list[int]] = []
    prompts = np.array([ids, [11, 12, 13]])
    both_rows = model.generate(prompts, max_new_tokens=6, eos_token_id=-1, on_token=steps.append)
    assert (both_rows[:, 1:] == np.array(steps).T).all()
    end = int(both_rows[0, 1])  # the first row ends at once: padding follows
    ended = model.generate(prompts, max_new_tokens=6, eos_token_id=end)
    assert list(ended[0, 2:]) == [0] * (ended.shape[1] - 2)


# ---------------------------------------------------------------------------------------------- names and targets
def test_the_papers_targets() -> None:
    config = T5Config.from_dict(BASE)
    shapes = T5.target_shapes(config)
    assert len(shapes) == 12 * 6 + 12 * 10
    assert {name.rpartition(".")[2] for name in shapes} == {"q", "k", "v", "o", "wi", "wo"}
    assert sum(32 * (d_in + d_out) for d_out, d_in in shapes.values()) == 12_976_128
    assert sum(32 * d_out for d_out, _ in shapes.values()) == 6_488_064


def test_targets_of_the_gated_model() -> None:
    model = made(GATED)
    assert list(model.shapes()) == [m for m in T5.linear_modules(model.config) if m != "lm_head"]
    assert {m.rpartition(".")[2] for m in model.shapes()} == {"q", "k", "v", "o", "wi_0", "wi_1", "wo"}
    assert len(model.shapes("EncDecAttention.k")) == 2
    with pytest.raises(ConfigError, match='"wi" matches no linear module'):
        model.shapes("wi")
    assert all(model.weight(m).shape == shape for m, shape in model.shapes().items())


def test_cross_attention_reads_the_encoder() -> None:
    seen: dict[str, np.ndarray] = {}
    made(RELU).observing(seen.__setitem__)([4, 9, 2], labels=[5, 1])
    assert set(seen) == set(T5.linear_modules(made(RELU).config))
    k, v = (seen[f"decoder.block.{i}.layer.1.EncDecAttention.{p}"] for i, p in ((0, "k"), (1, "v")))
    assert k is v  # one memory for all blocks: calibration sums it once
    assert k.shape == (1, 3, 16)
    assert seen["decoder.block.0.layer.1.EncDecAttention.q"].shape == (1, 2, 16)


def test_training_lowers_the_loss() -> None:
    model, rng = made(GATED), np.random.default_rng(0)
    data = [
        {"input_ids": rng.integers(2, 31, 5).tolist(), "labels": rng.integers(2, 31, n).tolist()} for n in (3, 6, 4, 2)
    ]
    stats = tr.calibrate(model, data)
    plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=3, alpha=6)
    adapter = tr.initialize(model, stats, plan)
    before = tr.evaluate(model, data).loss
    tr.train(model, adapter, data, steps=12, batch_size=2, lr=1e-2)
    assert tr.evaluate(model, data).loss < 0.8 * before


def test_names_in_checkpoints() -> None:
    model = made(RELU)
    shared = model.tensors["shared.weight"]
    copies = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), shared)
    unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones((32, 4))}
    assert set(T5.sanitize({**model.tensors, **copies, **unused}, model.config)) == set(model.tensors)
    without = {n: x for n, x in {**model.tensors, **copies}.items() if n != "shared.weight"}
    assert T5.sanitize(without, model.config)["shared.weight"] is shared
    for name in copies:
        with pytest.raises(CheckpointError, match=f"{name} differs from shared.weight"):
            T5.sanitize({**model.tensors, name: shared + 1.0}, model.config)


def test_transformers_5_writes_every_t5_as_tied() -> None:
    untied = made(GATED)
    config = T5Config.from_dict({**GATED, "tie_word_embeddings": True, "scale_decoder_outputs": False})
    assert config == untied.config
    assert set(T5.sanitize(dict(untied.tensors), config)) == set(untied.tensors)
    bare = {n: x for n, x in untied.tensors.items() if n != "lm_head.weight"}
    assert T5.sanitize(bare, config)["lm_head.weight"] is bare["shared.weight"]


@both
def test_a_saved_folder_loads_as_the_same_model(values: dict[str, Any], tmp_path: Any) -> None:
    model = made(values)
    save_model(model, tmp_path / "m", dtype="float64")
    again = load_model(tmp_path / "m")
    assert (type(again), again.config) == (T5, model.config)
    assert (again(**batch()).logits == model(**batch()).logits).all()


@pytest.mark.parametrize(
    ("named", "act", "is_gated"),
    [
        ({"feed_forward_proj": "relu"}, "relu", False),
        ({"feed_forward_proj": "gated-gelu"}, "gelu_new", True),
        ({"feed_forward_proj": "gated-silu"}, "silu", True),
        ({"feed_forward_proj": "gelu"}, "gelu", False),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu", "is_gated_act": True}, "gelu", True),
    ],
)
def test_spellings_of_the_mlp(named: dict[str, Any], act: str, is_gated: bool) -> None:
    config = T5Config.from_dict({**RELU, **named})
    assert (config.dense_act_fn, config.is_gated_act) == (act, is_gated)


# ---------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"d_kv": 0}, "d_kv"),
        ({"is_decoder": True}, "is_decoder"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder"),
        ({"tie_encoder_decoder": True}, "tie_encoder_decoder"),
        ({"feed_forward_proj": "gated-mish"}, "mish"),
        ({"feed_forward_proj": "double-gated-gelu"}, "feed_forward_proj"),
        ({"relative_attention_num_buckets": 2}, "at least 4 buckets"),
        ({"relative_attention_max_distance": 16}, "above half"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T5Config.from_dict({**RELU, **changes})


def test_other_architectures_are_refused_by_name() -> None:
    assert family("t5", ["T5WithLMHeadModel"])[1] is T5
    for name in ("T5EncoderModel", "T5ForSequenceClassification", "T5ForQuestionAnswering"):
        with pytest.raises(ConfigError, match=f"{name}.*not implemented"):
            family("t5", [name])


def test_calls_that_are_refused() -> None:
    model, ids = made(RELU), [4, 9, 2]
    with pytest.raises(DataError, match=r"needs labels=.* or decoder_input_ids"):
        model(ids)
    with pytest.raises(DataError, match="no label is scored"):
        model(ids, labels=[-100, -100])
    with pytest.raises(DataError, match="labels hold 31"):
        model(ids, labels=[31])
    with pytest.raises(DataError, match="decoder_input_ids holds token id 31"):
        model(ids, decoder_input_ids=[31])
    with pytest.raises(ShapeError, match="one label a token"):
        model(ids, labels=[3, 4], decoder_input_ids=[0, 3, 4])
    with pytest.raises(ShapeError, match=r"1 row.* and the decoder 2"):
        model(ids, labels=[[3], [4]])
    with pytest.raises(ShapeError, match="expected"):
        model(ids, labels=[[[3]]])
    with pytest.raises(ShapeError, match="decoder_attention_mask"):
        model(ids, labels=[3, 4], decoder_attention_mask=[1])
    with pytest.raises(ConfigError, match="token_type_ids means nothing"):
        model(ids, labels=[3], token_type_ids=[0, 0, 0])
    with pytest.raises(ConfigError, match="max_new_tokens"):
        model.generate(ids, max_new_tokens=0)


@pytest.mark.parametrize("key", ["decoder_start_token_id", "pad_token_id"])
def test_tokens_that_the_configuration_must_name(key: str) -> None:
    model = made({**RELU, key: None})
    with pytest.raises(ConfigError, match=f'no "{key}"'):
        model([4, 9], labels=[5, -100, 6])


def test_a_start_token_beyond_the_vocabulary_is_refused() -> None:
    model = made({**RELU, "decoder_start_token_id": 40})
    with pytest.raises(ConfigError, match='"decoder_start_token_id" is 40, but the vocabulary has'):
        model([1, 2], labels=[3])
