"""What every decoder must satisfy, without any other library to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.common import (
    CLASSIFIERS,
    CONFIGS,
    PAD,
    check_cache,
    check_finite_differences,
    check_padding,
    every_task,
    padded_batch,
    tiny,
    tiny_classifier,
)
from tlora_ref.autograd import grad
from tlora_ref.checkpoint import load_model, save_model
from tlora_ref.errors import ConfigError, DataError, ShapeError
from tlora_ref.transformer import FAMILIES, family

every_family = pytest.mark.parametrize("kind", CONFIGS)
every_classifier = pytest.mark.parametrize("kind", CLASSIFIERS)


@every_family
@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients_by_finite_differences(kind: str, side: str) -> None:
    check_finite_differences(tiny(kind), padded_batch(side))


@every_family
def test_padding_changes_nothing(kind: str) -> None:
    check_padding(tiny(kind))


@every_family
def test_cache_changes_nothing(kind: str) -> None:
    check_cache(tiny(kind))


@every_family
def test_no_token_sees_a_later_one(kind: str) -> None:
    model, ids = tiny(kind), np.arange(1, 13)
    changed = ids.copy()
    changed[8:] = 30
    before, after = model(ids).logits, model(changed).logits
    assert (before[:8] == after[:8]).all()
    assert (before[8:] != after[8:]).any()


@every_family
def test_order_matters(kind: str) -> None:
    # The position embedding is there: swapping two earlier tokens changes what follows.
    model = tiny(kind)
    a, b = model([5, 9, 7]).logits[-1], model([9, 5, 7]).logits[-1]
    assert np.abs(a - b).max() > 1e-3


@every_family
def test_a_saved_folder_loads_as_the_same_model(kind: str, tmp_path: Any) -> None:
    for model in every_task(kind):
        save_model(model, tmp_path / "m", dtype="float64", overwrite=True)
        again = load_model(tmp_path / "m")
        assert type(again) is type(model)
        assert again.config == model.config
        ids = np.arange(1, 10)
        assert (again(ids).logits == model(ids).logits).all()


@every_family
def test_default_targets_are_all_linear_modules_but_the_head(kind: str) -> None:
    for model in (*every_task(kind), tiny(kind, tie_word_embeddings=False)):
        heads = {"lm_head", "score"}
        modules = type(model).linear_modules(model.config)
        assert list(model.shapes()) == [m for m in modules if m not in heads]
        assert all(model.weight(m).shape == shape for m, shape in model.shapes().items())
        matrices = {n.removesuffix(".weight") for n, x in model.tensors.items() if x.ndim == 2}
        tables = ("embed_tokens", "wte", "wpe", "embed_in", "embed_positions")
        assert all(m.endswith(tables) for m in matrices - set(modules))


@every_family
def test_observers_see_every_linear_module_once(kind: str) -> None:
    for model in every_task(kind):
        seen: list[tuple[str, int]] = []
        model.observing(lambda module, x, seen=seen: seen.append((module, x.shape[-1])))([3, 4, 5])
        shapes = model.shapes(type(model).linear_modules(model.config))
        assert sorted(seen) == sorted((m, shape[1]) for m, shape in shapes.items())


@every_family
def test_float32_stays_float32(kind: str) -> None:
    model = tiny(kind, dtype="float32")
    out = model(**padded_batch("left"))
    assert out.logits.dtype == np.float32
    assert all(g.dtype == np.float32 for g in grad(out.loss, list(model.tensors)).values())
    expected = tiny(kind)(**padded_batch("left"))
    assert out.loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)


@every_family
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frobnicate": 1}, "frobnicate"),
        ({"vocab_size": "31"}, "vocab_size"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_configurations_that_are_refused(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(kind, **changes)


@every_family
def test_unknown_architectures_are_refused_by_name(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"ForTokenClassification.*not implemented"):
        family(kind, [next(iter(FAMILIES[kind][1])).partition("For")[0] + "ForTokenClassification"])


def test_unknown_families_are_refused_by_name() -> None:
    for unknown in ("mamba", None, 3):
        with pytest.raises(
            ConfigError, match=f"{unknown!r} is not supported: expected one of .*gpt2, gpt_neox, .*llama"
        ):
            family(unknown)


def test_a_family_without_architectures_is_its_first() -> None:
    for kind, (config_class, models) in FAMILIES.items():
        assert family(kind) == family(kind, []) == (config_class, next(iter(models.values())))


# ---------------------------------------------------------------------------------------------- classifiers
@every_classifier
def test_classifier_gradients(kind: str) -> None:
    batch = {**padded_batch("left"), "labels": np.array([2, 0, 1])}
    check_finite_differences(tiny_classifier(kind), batch)


@every_classifier
def test_a_classifier_sees_no_padding(kind: str) -> None:
    model = tiny_classifier(kind)
    rows = [row[mask == 1] for row, mask in zip(*list(padded_batch("right").values())[:2], strict=True)]
    alone = np.stack([model(row).logits for row in rows])
    for side in ("right", "left"):
        batch = padded_batch(side)
        together = model(batch["input_ids"], batch["attention_mask"]).logits
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12 * np.abs(alone).max())


def test_classifier_loss_and_shapes() -> None:
    model, batch = tiny_classifier("llama"), padded_batch("right")
    labels = np.array([2, 0, 1])
    out = model(batch["input_ids"], batch["attention_mask"], labels)
    assert (out.logits.shape, out.tokens) == ((3, 3), 3)
    p = np.exp(out.logits) / np.exp(out.logits).sum(axis=1, keepdims=True)
    assert out.loss.item() == pytest.approx(-np.log(p[range(3), labels]).mean(), rel=1e-12)
    by_divisor = model(batch["input_ids"], batch["attention_mask"], labels, loss_divisor=12)
    assert by_divisor.loss.item() == pytest.approx(out.loss.item() / 4, rel=1e-12)
    single = [model(batch["input_ids"][:1], labels=label) for label in (2, [2], np.array([2]))]
    assert len({s.loss.item() for s in single}) == 1
    assert model(batch["input_ids"][0]).logits.shape == (3,)


def test_what_a_classifier_refuses() -> None:
    model, batch = tiny_classifier("llama"), padded_batch("right")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with pytest.raises(ShapeError, match="one class a row"):
        model(ids, mask, batch["labels"])
    with pytest.raises(DataError, match="0 to 2"):
        model(ids, mask, np.array([0, 1, 3]))
    with pytest.raises(DataError, match="integer classes"):
        model(ids, mask, np.array([0.0, 1.0, 1.0]))
    with pytest.raises(DataError, match="pad with pad_token_id"):
        model(np.where(mask == 1, ids, 9), mask)
    with pytest.raises(ConfigError, match="does not generate"):
        model.generate(ids[0])
    with pytest.raises(ConfigError, match="token_type_ids means nothing"):
        model(ids, mask, token_type_ids=mask)
    without = tiny("llama", architectures=["LlamaForSequenceClassification"])
    assert without.config.labels == ("LABEL_0", "LABEL_1")
    assert without(ids[0]).logits.shape == (2,)
    with pytest.raises(ConfigError, match="no pad_token_id"):
        without(ids, mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"num_labels": 1, "id2label": None}, "regression"),
        ({"num_labels": 4}, '"num_labels" is 4, but "id2label" names 3'),
        ({"id2label": {"0": "a", "2": "b"}}, "expected 0, 1"),
    ],
)
def test_classifier_configurations_that_are_refused(changes: dict[str, Any], message: str) -> None:
    head = {"architectures": [CLASSIFIERS["gpt2"]], "id2label": {"0": "a", "1": "b", "2": "c"}}
    with pytest.raises(ConfigError, match=message):
        tiny("gpt2", **{**head, "pad_token_id": PAD, **changes})
