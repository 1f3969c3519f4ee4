"""Adapters on embedding tables: gradients against finite differences, and which tensor a tied table's uses read."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tests.tiny import tiny_llama
from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.training.parameters import install
from tlora_ref.transformer import FAMILIES

EMBED, HEAD = "model.embed_tokens", "lm_head"
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def on_both(rng: np.random.Generator) -> Adapter:
    """LoRA on the table (31 rows of 16) and on the output matrix."""
    A = {EMBED: rng.standard_normal((2, 31)), HEAD: rng.standard_normal((3, 16))}
    B = {EMBED: rng.standard_normal((16, 2)), HEAD: rng.standard_normal((31, 3))}
    return Adapter(A, B, {EMBED: 0.7, HEAD: 1.3}, tables={EMBED})


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_a_low_rank_table(tied: bool) -> None:
    rng = np.random.default_rng(0)
    model, adapter = tiny_llama(tie_word_embeddings=tied), on_both(rng)
    model.attach(adapter)
    names = [f"{module}.lora_{letter}.weight" for module in (EMBED, HEAD) for letter in "AB"]
    found = grad(model.watching(names)(IDS, labels=IDS).loss, names)
    for name in names:
        matrix = getattr(adapter, name[-8])[name[: -len(".lora_A.weight")]]
        direction = rng.standard_normal(matrix.shape)
        step, original, losses = 2e-6, matrix.copy(), []
        for sign in (1, -1):
            matrix[...] = original + sign * step * direction
            losses.append(float(model(IDS, labels=IDS).loss.data))
        matrix[...] = original
        wanted = (losses[0] - losses[1]) / (2 * step)
        assert float((found[name] * direction).sum()) == pytest.approx(wanted, rel=1e-7)


def test_one_use_of_a_tied_table_is_replaced_alone() -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((31, 16))
    tied, apart = tiny_llama(tie_word_embeddings=True), tiny_llama(tie_word_embeddings=False)
    for name in tied.tensors:
        apart.tensors[name] = tied.tensors[name]
    apart.tensors["lm_head.weight"] = tied.tensors[f"{EMBED}.weight"]
    apart.tensors[f"{EMBED}.weight"] = table
    adapter = Adapter({}, {}, {}, saved={f"{EMBED}.weight": table})
    with pytest.warns(UserWarning, match=r"ties to lm_head\.weight: as in PEFT"):
        tied.attach(adapter)
    assert np.array_equal(tied(IDS).logits, apart(IDS).logits)
    # Trained on, that use alone learns; the base's table, which the output reads, has the same name and does not.
    name = f"{EMBED}.weight"
    ours, theirs = (grad(m.watching([name])(IDS, labels=IDS).loss, [name])[name] for m in (tied, apart))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)
    install({f"{EMBED}.weight": 2 * table}, tied, adapter)
    assert adapter.tied == {}
    tied.detach()
    with pytest.warns(UserWarning, match="ties to"):
        merged = tied.merge(adapter)
    assert not merged.config.tie_word_embeddings and set(merged.tensors) == set(apart.tensors)


def test_a_table_that_is_trained_is_trained_in_all_its_uses() -> None:
    model, adapter = tiny_llama(tie_word_embeddings=True), Adapter({}, {}, {})
    table = np.random.default_rng(2).standard_normal((31, 16))
    install({f"{EMBED}.weight": table}, model, adapter)
    assert adapter.tied == {f"{EMBED}.weight": ("lm_head.weight",)}
    whole = tiny_llama(tie_word_embeddings=True)
    whole.tensors[f"{EMBED}.weight"] = table
    model.attach(adapter)
    assert np.array_equal(model(IDS).logits, whole(IDS).logits)


def test_every_family_looks_rows_up_where_an_adapter_can_sit() -> None:
    # A table that a family reads by itself would leave an adapter on it out, in silence.
    for family, (_, models) in FAMILIES.items():
        for model in models.values():
            if "embedding(" in inspect.getsource(inspect.getmodule(model)):
                assert family == "opt", f"{family}: use Model.embedded"  # its positions, which no adapter may name
