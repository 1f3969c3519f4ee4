"""The config.json of well-known checkpoints: each is read, and gives the number of parameters that is published."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from tests.families.known import KNOWN, ROUNDED
from tlora_ref.transformer import family


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
