"""What a training step saves for its backward pass: counted from the tape itself, held under the stated bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama
from tlora_ref.autograd import Tensor
from tlora_ref.transformer import Model

RANK = 2


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """Every array that a VJP can reach: in its closure, in functions, containers and records inside it."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Tensor):
        yield value.data
    elif is_dataclass(value):
        for one in fields(value):
            yield from arrays_in(getattr(value, one.name))
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from arrays_in(entry)
    elif callable(value) and getattr(value, "__closure__", None):
        for cell in value.__closure__:
            yield from arrays_in(cell.cell_contents)


def owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def saved_bytes(model: Model, sample: dict[str, Any]) -> int:
    """Bytes of the distinct buffers that the tape of one sample's loss keeps, the weights and the adapter apart."""
    names = [f"{module}.lora_B.weight" for module in model.adapter.B]  # type: ignore[union-attr]
    loss = model.watching(names)(**sample).loss
    mine = [*model.tensors.values(), *model.adapter.A.values(), *model.adapter.B.values()]  # type: ignore[union-attr]
    known = {id(owner(array)) for array in mine}
    buffers: dict[int, np.ndarray] = {}
    seen, stack = set(), [loss.node]
    while stack:
        node = stack.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        stack += node.parents
        for array in arrays_in(node.vjp):
            buffers.setdefault(id(owner(array)), owner(array))
    return sum(array.nbytes for key, array in buffers.items() if key not in known)


def adapted(model: Model) -> Model:
    shapes = model.shapes()
    plan = tr.allocate(dict.fromkeys(shapes, 1.0), shapes, RANK, RANK)
    model.attach(tr.initialize(model, None, plan, init="random"))
    return model


def per_token(model: Model, few: int, many: int) -> float:
    """What one more token adds."""

    def sample(tokens: int) -> dict[str, Any]:
        ids = (np.arange(tokens) % 20 + 5).tolist()
        labels = 1 if "Classif" in type(model).__name__ else ids
        return {"input_ids": ids, "labels": labels}

    return (saved_bytes(model, sample(many)) - saved_bytes(model, sample(few))) / (many - few)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_llama_layer_saves_what_readme_says_for_every_token(dtype: str) -> None:
    """2 normed inputs and their 2 scales, q, k, v, gate, up, a log-sum-exp a head, r numbers a module: nothing else."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    d, d_kv, d_ff, heads, modules = 32, 16, 48, 4, 7
    numbers = {}
    for layers in (2, 4):
        model = adapted(tiny_llama(dtype=dtype, num_hidden_layers=layers, max_position_embeddings=256, **sizes))
        numbers[layers] = per_token(model, 16, 48) / np.dtype(dtype).itemsize
    assert (numbers[4] - numbers[2]) / 2 == 2 * d + 2 + d + 2 * d_kv + 2 * d_ff + heads + modules * RANK


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_recomputed_llama_layer_saves(dtype: str) -> None:
    """The MLP's input in place of gate, up and the r numbers of each: the rest as above."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    d, d_kv, heads, modules = 32, 16, 4, 5
    numbers = {}
    for layers in (2, 4):
        model = adapted(tiny_llama(dtype=dtype, num_hidden_layers=layers, max_position_embeddings=256, **sizes))
        model.recompute = True
        numbers[layers] = per_token(model, 16, 48) / np.dtype(dtype).itemsize
    assert (numbers[4] - numbers[2]) / 2 == 2 * d + 2 + d + 2 * d_kv + heads + d + modules * RANK


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_saves_less_where_its_mlps_are_recomputed(name: str) -> None:
    per = []
    for recompute in (False, True):
        model = adapted(tiny_model(name))
        model.recompute = recompute
        per.append(per_token(model, 6, 12))
    assert per[1] < per[0]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_family_saves_more_than_its_layers_activations(name: str) -> None:
    """Against the sum of all module inputs and outputs of a pass: what saving everything would take."""
    model = adapted(tiny_model(name))
    everything = sum(d_in + d_out for d_out, d_in in model.shapes(".*").values()) * model.dtype.itemsize
    assert 0 < per_token(model, 6, 12) <= everything


def test_the_count_sees_what_is_planted() -> None:
    model = adapted(tiny_llama())
    sample = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    before = saved_bytes(model, sample)
    original = Model.linear

    def wasteful(self: Model, module: str, x: Tensor) -> Tensor:
        y = original(self, module, x)
        if y.node is not None:
            vjp, kept = y.node.vjp, np.zeros(1000)
            y.node.vjp = lambda dy: (kept, vjp(dy))[1]  # type: ignore[misc]
        return y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "linear", wasteful)
        assert saved_bytes(model, sample) >= before + 8000
