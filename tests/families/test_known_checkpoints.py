"""The config.json of well-known checkpoints: each is read, and gives the number of parameters that is published."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from tests.families.known import KNOWN, ROUNDED
from tlora_ref.transformer import FAMILIES, family


def weights(values: dict[str, Any]) -> int:
    """How many a model of this config.json has."""
    config_class, model_class = family(values["model_type"], values.get("architectures"))
    return sum(prod(shape) for shape in model_class.tensor_shapes(config_class.from_dict(values)).values())


@pytest.mark.parametrize("name", KNOWN)
def test_published_size(name: str) -> None:
    published, values = KNOWN[name]
    assert weights(values) == published


@pytest.mark.parametrize("name", ROUNDED)
def test_published_size_in_billions(name: str) -> None:
    billions, values = ROUNDED[name]
    assert round(weights(values) / 1e9, 1) == billions


@pytest.mark.parity
@pytest.mark.parametrize("name", [*KNOWN, *ROUNDED])
def test_transformers_takes_the_config_and_has_as_many_weights(name: str) -> None:
    """Without memory: on PyTorch's device that holds shapes alone."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    values = {**KNOWN, **ROUNDED}[name][1]
    config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))
    architecture = (values.get("architectures") or list(FAMILIES[values["model_type"]][1]))[0]
    with torch.device("meta"):
        theirs = getattr(transformers, architecture)(config)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == weights(values)
