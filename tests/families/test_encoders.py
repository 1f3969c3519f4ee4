"""What BERT, RoBERTa and DistilBERT have in common, without transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.common import check_finite_differences, tiny
from tests.families.encoders import BARE, CLASSIFIERS, CONFIGS, bare, batch, classifier
from tlora_ref.autograd import cross_entropy, grad
from tlora_ref.checkpoint import load_model, save_model
from tlora_ref.errors import ConfigError, DataError, ShapeError
from tlora_ref.transformer import Model, family

every_family = pytest.mark.parametrize("kind", CONFIGS)
IDS = [5, 9, 7, 20]


@every_family
def test_gradients(kind: str) -> None:
    check_finite_differences(classifier(kind), batch(kind))


@every_family
def test_gradients_of_a_loss_of_ones_own(kind: str) -> None:
    model, targets = bare(kind), np.array([3, 0, 15, 7])
    names = [name for name in model.tensors if not name.startswith("pooler.")]  # it takes no part
    gradients = grad(cross_entropy(model(IDS).hidden, targets, 1.0), names)
    largest, step = max(float(np.abs(g).max()) for g in gradients.values()), 1e-5
    for name in names:
        index = np.unravel_index(int(np.abs(gradients[name]).argmax()), gradients[name].shape)
        losses = []
        for move in (step, -step):
            moved = model.tensors[name].copy()
            moved[index] += move
            other = type(model)(model.config, {**model.tensors, name: moved})
            losses.append(cross_entropy(other(IDS).hidden, targets, 1.0).item())
        assert abs(gradients[name][index] - (losses[0] - losses[1]) / (2 * step)) <= 1e-7 * largest, name


@every_family
def test_padding_changes_nothing(kind: str) -> None:
    padded = batch(kind)
    ids, mask = padded["input_ids"], padded["attention_mask"]
    noisy = np.where(mask == 1, ids, 17)
    encoder, head = bare(kind), classifier(kind)
    for given in (ids, noisy):
        hidden, logits = encoder(given, mask).hidden.data, head(given, mask).logits
        for row, keep in enumerate(mask == 1):
            np.testing.assert_allclose(hidden[row][keep], encoder(ids[row][keep]).hidden.data, rtol=0, atol=1e-12)
            np.testing.assert_allclose(logits[row], head(ids[row][keep]).logits, rtol=0, atol=1e-12)


@every_family
def test_every_token_sees_every_other(kind: str) -> None:
    model = bare(kind)
    before, after = (model([5, 9, 7, last]).hidden.data for last in (20, 21))
    assert (np.abs(before - after).max(axis=1) > 1e-3).all()


@every_family
def test_order_matters(kind: str) -> None:
    model = bare(kind)
    assert np.abs(model([5, 9, 7]).hidden.data[0] - model([5, 7, 9]).hidden.data[0]).max() > 1e-3


@every_family
def test_shapes_and_loss(kind: str) -> None:
    encoder, model, padded = bare(kind), classifier(kind), batch(kind)
    assert encoder(IDS).hidden.shape == (4, 16)
    assert encoder([IDS, IDS]).hidden.shape == (2, 4, 16)
    out = model(**padded)
    assert (out.logits.shape, out.hidden.shape, out.tokens) == ((3, 3), (3, 9, 16), 3)
    p = np.exp(out.logits) / np.exp(out.logits).sum(axis=1, keepdims=True)
    assert out.loss.item() == pytest.approx(-np.log(p[range(3), padded["labels"]]).mean(), rel=1e-12)
    assert model(**padded, loss_divisor=12).loss.item() == pytest.approx(out.loss.item() / 4, rel=1e-12)
    single = [model(IDS, labels=label).loss.item() for label in (2, [2], np.array([2]))]
    assert len(set(single)) == 1
    assert model(IDS).logits.shape == (3,)


@every_family
def test_the_bare_encoder_is_that_of_the_classifier(kind: str) -> None:
    model = classifier(kind)
    base = type(model).base
    stored = {name.removeprefix(f"{base}."): x for name, x in model.tensors.items() if name.startswith(f"{base}.")}
    encoder = bare(kind)
    for name in encoder.tensors:
        assert name in stored or name.startswith("pooler.")
    same = type(encoder)(encoder.config, {**encoder.tensors, **stored})
    assert (same(IDS).hidden.data == model(IDS).hidden.data).all()


def stored_names(model: Model, prefix: str) -> dict[str, np.ndarray]:
    """The tensors as an older file names them, below `prefix`, with the positions that it holds beside them."""
    base, own = type(model).base, ("embeddings.", "encoder.", "transformer.", "pooler.")
    stored = {}
    for name, x in model.tensors.items():
        plain = name.removeprefix(f"{base}.")
        old = plain.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        stored[f"{prefix}{old}" if plain.startswith(own) else old] = x
    return {**stored, f"{prefix}embeddings.position_ids": np.arange(64)[None]}


@every_family
@pytest.mark.parametrize("with_prefix", [True, False])
def test_names_in_checkpoints(kind: str, with_prefix: bool) -> None:
    for model in (bare(kind), classifier(kind)):
        stored = stored_names(model, f"{type(model).base}." if with_prefix else "")
        sanitized = type(model).sanitize(stored, model.config)
        assert set(sanitized) == set(model.tensors)
        assert all(sanitized[name] is x for name, x in model.tensors.items())


@every_family
def test_default_targets_are_the_linear_modules_of_the_layers(kind: str) -> None:
    for model in (bare(kind), classifier(kind)):
        layers = type(model).layer_paths(model.config)[0].removesuffix("0")
        modules = type(model).linear_modules(model.config)
        assert list(model.shapes()) == [m for m in modules if m.startswith(layers)]
        assert len(model.shapes()) == (8 if kind == "modernbert" else 12)
        assert all(model.weight(m).shape == shape for m, shape in model.shapes().items())
        matrices = {n.removesuffix(".weight") for n, x in model.tensors.items() if x.ndim == 2}
        tables = ("word_embeddings", "position_embeddings", "token_type_embeddings", "rel_embeddings", "tok_embeddings")
        assert all(m.endswith(tables) for m in matrices - set(modules))


@every_family
def test_observers_see_every_linear_module(kind: str) -> None:
    model, seen = classifier(kind), []
    model.observing(lambda module, x: seen.append((module, x.shape[-1])))(IDS)
    shapes = model.shapes(type(model).linear_modules(model.config))
    # DeBERTa's projections of queries and keys project the relative positions too.
    twice = [m for m in shapes if kind == "deberta-v2" and m.endswith(("query_proj", "key_proj"))]
    assert sorted(seen) == sorted((m, shapes[m][1]) for m in [*shapes, *twice])


@every_family
def test_tlora_trains_a_classifier(kind: str) -> None:
    model, rng = classifier(kind), np.random.default_rng(0)
    data = [{"input_ids": rng.integers(3, 31, n).tolist(), "labels": n % 3} for n in (5, 6, 7, 5, 6, 7)]
    stats = tr.calibrate(model, data)
    plan = tr.allocate(stats.sensitivity, model.shapes(), r_init=3, alpha=6)
    adapter = tr.initialize(model, stats, plan)
    before = tr.evaluate(model, data).loss
    tr.train(model, adapter, data, steps=15, batch_size=3, lr=2e-2)
    assert tr.evaluate(model, data).loss < 0.8 * before


@every_family
def test_float32_stays_float32(kind: str) -> None:
    model = classifier(kind, dtype="float32")
    out = model(**batch(kind))
    assert (out.logits.dtype, out.hidden.dtype) == (np.float32, np.float32)
    assert all(g.dtype == np.float32 for g in grad(out.loss, list(model.tensors)).values())
    assert out.loss.item() == pytest.approx(classifier(kind)(**batch(kind)).loss.item(), rel=1e-4)


@every_family
def test_a_saved_folder_loads_as_the_same_model(kind: str, tmp_path: Any) -> None:
    for i, model in enumerate((bare(kind), classifier(kind))):
        save_model(model, tmp_path / str(i), dtype="float64")
        again = load_model(tmp_path / str(i))
        assert (type(again), again.config) == (type(model), model.config)
        assert (again(IDS).hidden.data == model(IDS).hidden.data).all()


# ---------------------------------------------------------------------------------------------- refusals
@every_family
def test_calls_that_are_refused(kind: str) -> None:
    encoder, model, padded = bare(kind), classifier(kind), batch(kind)
    ids, mask = padded["input_ids"], padded["attention_mask"]
    with pytest.raises(ConfigError, match="labels means nothing"):
        encoder(ids, mask, [1, 2, 0])
    with pytest.raises(ConfigError, match=r"no logits.*out\.hidden"):
        _ = encoder(IDS).logits
    with pytest.raises(ConfigError, match="no loss"):
        _ = encoder(IDS).loss
    with pytest.raises(ShapeError, match="one class a row"):
        model(ids, mask, ids)
    with pytest.raises(DataError, match="0 to 2"):
        model(ids, mask, [0, 1, 3])
    with pytest.raises(DataError, match="token id 31"):
        model([5, 31])
    with pytest.raises(DataError, match="all padding"):
        model(ids, mask * 0)
    with pytest.raises(ConfigError, match="decoder_input_ids means nothing"):
        model(ids, mask, decoder_input_ids=ids)
    with pytest.raises(ConfigError, match="does not generate"):
        model.generate(IDS)


@every_family
def test_hidden_states_are_for_encoders(kind: str) -> None:
    with pytest.raises(ConfigError, match="only encoders"):
        _ = tiny("llama")(IDS).hidden


@every_family
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"id2label": {"0": "score"}}, "regression"),
        ({"id2label": {"0": "a", "2": "b"}}, "expected 0, 1"),
    ],
)
def test_configurations_that_are_refused(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classifier(kind, **changes)


@every_family
def test_of_other_architectures_the_encoder_is_taken(kind: str) -> None:
    for task in ("MaskedLM", "QuestionAnswering", "TokenClassification", "PreTraining"):
        name = BARE[kind].replace("Model", f"For{task}")
        config_class, model_class = family(kind, [name])
        assert model_class is type(bare(kind))
        assert config_class.from_dict({"model_type": kind, "architectures": [name]}).architecture == BARE[kind]
    for name in (BARE[kind].replace("Model", "LMHeadModel"), "LlamaForCausalLM", "ForMaskedLM"):
        with pytest.raises(ConfigError, match=f"{name}.*not implemented.*{CLASSIFIERS[kind]}"):
            family(kind, [name])
    assert family(kind)[1] is type(bare(kind))
