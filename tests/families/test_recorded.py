"""Every tiny model against what transformers computed of it in true float64 (`recorded.py`), without transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.families.make_tiny import tiny_model
from tests.families.recorded import FOLDER, NAMES, NEW_TOKENS, digests, inputs_of, read, scored
from tlora_ref.autograd import grad
from tlora_ref.transformer import Model


def exact(name: str) -> Model:
    """The model in float64."""
    model = tiny_model(name)
    return type(model)(model.config, {key: x.astype(np.float64) for key, x in model.tensors.items()})


def close(a: Any, b: Any) -> bool:
    return bool(np.abs(np.asarray(a) - b).max() <= 1e-10 * np.abs(b).max())


def test_there_is_a_recording_of_every_model_and_no_other() -> None:
    assert sorted(file.stem for file in FOLDER.iterdir()) == NAMES, "python -m tests.families.recorded NAME writes one"


@pytest.mark.parametrize("name", NAMES)
def test_logits_loss_and_gradients(name: str) -> None:
    model, truth = exact(name), read(name)
    for side in ("right", "left") if model.task_type == "CAUSAL_LM" else ("right",):
        batch = inputs_of(model, side)
        out = model(**batch)
        assert close(scored(model, batch["attention_mask"], out.logits), truth["logits"])
        assert close(out.loss.item(), truth["loss"])
        found = digests(grad(out.loss, list(model.tensors)))
        assert found.shape == truth["gradients"].shape
        assert np.abs(found - truth["gradients"]).max() <= 1e-10 * np.abs(truth["gradients"]).max()


@pytest.mark.parametrize("name", [name for name in NAMES if tiny_model(name).task_type == "CAUSAL_LM"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens(name: str, use_cache: bool) -> None:
    model, expected = exact(name), read(name)["tokens"]
    for side in ("right", "left"):
        batch = inputs_of(model, side)
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "eos_token_id": -1, "use_cache": use_cache}
        made = model.generate(batch["input_ids"], batch["attention_mask"], **options)
        assert (made[:, -NEW_TOKENS:] == expected).all()
