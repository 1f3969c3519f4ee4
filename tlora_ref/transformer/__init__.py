"""The models: shared parts, and one file a family named by its `model_type`."""

from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.transformer.llama import Llama, LlamaConfig
from tlora_ref.transformer.model import Model
from tlora_ref.transformer.output import Output

#: model_type of a config.json -> (configuration class, model class).
FAMILIES: dict[str, tuple[Any, type[Model]]] = {"llama": (LlamaConfig, Llama)}


def family(model_type: object) -> tuple[Any, type[Model]]:
    """The classes of a `model_type`, or a ConfigError that lists the supported ones."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"config.json: model_type {model_type!r} is not supported: expected one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Model", "Output", "family"]
