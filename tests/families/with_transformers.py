"""The same tiny models in transformers, in true float64, and the comparison of everything they compute."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import transformers

from tests.families.common import padded_batch, random_tensors
from tests.parity.float64 import true_float64, watched
from tlora_ref.autograd import grad
from tlora_ref.transformer import Model, family

#: The models are tiny: more threads than one only wait for each other, for seconds.
torch.set_num_threads(1)

#: Largest difference allowed, relative to the larger of a tensor's largest entry and 1e-3 of the largest gradient.
TOLERANCE = 1e-10


def theirs(values: dict[str, Any], architecture: str | None = None, seed: int = 0) -> Any:
    """transformers' model of a config.json with random weights, computing in float64."""
    values = deepcopy(values)  # transformers writes into the rope settings that it is given
    kind = values.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **values)
    config._attn_implementation = "eager"
    name = architecture or next(iter(family_architectures(kind)))
    with true_float64():
        model = getattr(transformers, name)(config).eval()
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        for name, x in random_tensors(shapes, seed).items():
            model.get_parameter(name).data = torch.from_numpy(x)
    model.config.architectures = [type(model).__name__]
    return model


def family_architectures(model_type: str) -> list[str]:
    from tlora_ref.transformer import FAMILIES

    return list(FAMILIES[model_type][1])


def ours(model: Any, values: dict[str, Any] | None = None) -> Model:
    """Our model of the same weights, from what transformers would save as config.json (or from `values`)."""
    saved = values or json.loads(model.config.to_json_string())
    config_class, model_class = family(saved["model_type"], saved.get("architectures"))
    config = config_class.from_dict(saved)
    tensors = model_class.sanitize({name: p.detach().numpy() for name, p in model.named_parameters()}, config)
    shapes = model_class.tensor_shapes(config)
    assert {name: x.shape for name, x in tensors.items()} == shapes
    return model_class(config, tensors)


def close(a: Any, b: Any, floor: float = 0.0) -> bool:
    """max|a - b| <= 1e-10 * max(max|b|, floor)."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return bool(np.abs(a - b).max() <= TOLERANCE * max(float(np.abs(b).max()), floor))


def check_pass(model: Any, mine: Model, inputs: dict[str, Any], scored: np.ndarray | None = None) -> None:
    """Logits (where `scored`), loss and the gradient of every weight."""
    tensors = {name: torch.from_numpy(np.asarray(x)) for name, x in inputs.items()}
    if "attention_mask" in inputs:
        tensors["position_ids"] = (tensors["attention_mask"].cumsum(1) - 1).clamp(min=0)
    model.zero_grad()
    with true_float64(model), watched():
        out = model(**tensors)
        out.loss.backward()
    result = mine(**inputs)
    expected = out.logits.detach().numpy()
    pick = np.ones(expected.shape[:-1], dtype=bool) if scored is None else scored
    assert close(result.logits[pick], expected[pick])
    assert close(result.loss.item(), out.loss.item())
    check_gradients(model, mine, grad(result.loss, list(mine.tensors)))


def check_gradients(model: Any, mine: Model, gradients: dict[str, Any]) -> None:
    """Every gradient against transformers' own, which may hold the tensors in another layout."""
    raw = {name: np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy() for name, p in model.named_parameters()}
    expected = type(mine).sanitize(raw, mine.config)
    assert set(expected) == set(gradients)
    largest = max(float(np.abs(g).max()) for g in expected.values())
    wrong = [name for name, g in expected.items() if not close(gradients[name], g, 1e-3 * largest)]
    assert wrong == []


def check_language_model(model: Any, mine: Model, length: int = 11) -> None:
    """One sample, a batch padded on the right, a batch padded on the left."""
    ids = np.random.default_rng(5).integers(1, 31, (1, length))
    check_pass(model, mine, {"input_ids": ids, "labels": ids})
    for side in ("right", "left"):
        batch = padded_batch(side, rows=(length, 6, 3))
        check_pass(model, mine, batch, scored=batch["attention_mask"] == 1)


def check_generation(model: Any, mine: Model, new_tokens: int = 9) -> None:
    """Greedy, token for token: ours padded on either side, with and without the cache."""
    batch = padded_batch("left", rows=(7, 4, 2))
    model.generation_config.eos_token_id = None
    options = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    with true_float64(model), torch.no_grad():
        expected = {
            use_cache: model.generate(
                torch.from_numpy(batch["input_ids"]),
                attention_mask=torch.from_numpy(batch["attention_mask"]),
                use_cache=use_cache,
                **options,
            ).numpy()[:, -new_tokens:]
            for use_cache in (True, False)
        }
    for side in ("left", "right"):
        batch = padded_batch(side, rows=(7, 4, 2))
        for use_cache, tokens in expected.items():
            made = mine.generate(
                batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=new_tokens,
                eos_token_id=-1,
                use_cache=use_cache,
            )
            assert (made[:, -new_tokens:] == tokens).all()
