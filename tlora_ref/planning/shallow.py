"""Models of a few layers, with weights of no meaning, that are measured in place of the whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from tlora_ref.backend import BFLOAT16, Array
from tlora_ref.planning.memory import MemoryPlan
from tlora_ref.transformer import Model
from tlora_ref.transformer.head import VocabularyHead
from tlora_ref.transformer.holding import holdable

#: What families call the number of their layers.
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
#: Layers of the model that stands for all of them, and its vocabulary, whose output layer takes next to nothing.
LAYERS, FEW_WORDS = 2, 64
#: Numbers of the output matrix that stands for a larger one.
OUTPUT = 2**23
#: Random numbers that are drawn; a larger matrix repeats them.
DRAWN = 2**20


class Kept(NamedTuple):
    """How a run keeps its weights and activations: as `load_model` and `Model` have it."""

    dtype: str = "float32"
    hold: str | None = None
    recompute: bool = False


@dataclass(frozen=True)
class Shallow:
    """What stands for a model.

    Attributes
    ----------
    body : LAYERS layers and a vocabulary of FEW_WORDS; or the whole model
    layers : how many times its layers the whole has, by the weights of their linear modules
    headed : one layer, and a part of the output matrix; None where there is no such matrix, or `body` is the whole
    headed_layers : how many times the layers of `body` it has
    words : how many times its part the whole output matrix is
    """

    body: Model
    layers: float = 1.0
    headed: Model | None = None
    headed_layers: float = 0.0
    words: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether all of the model is there."""
        return self.layers == 1.0 and self.headed is None

    def parts(self, body: float, headed: Callable[[Model], float]) -> tuple[float, float]:
        """(of all layers, of the output layer), where `body` was measured of `body`; of the whole as (all, 0)."""
        if self.headed is None:
            return body * self.layers, 0.0
        return body * self.layers, max(0.0, headed(self.headed) - body * self.headed_layers) * self.words


def shallow(memory: MemoryPlan, *, whole: bool, kept: Kept) -> Shallow:
    """What stands for the model of `memory`; `whole`: all of it."""
    family, settings = memory.family, memory.settings
    if whole:
        return Shallow(_model(family, settings, kept))
    vocabulary = settings.vocab_size
    starts = 1 + max(0, *(getattr(settings, name, None) or 0 for name in ("decoder_start_token_id", "pad_token_id")))
    body = _changed(settings, LAYERS, min(vocabulary, max(FEW_WORDS, starts)))
    own = layer_weights(family, body)
    found = Shallow(_model(family, body, kept), layer_weights(family, settings) / own)
    if not issubclass(family, VocabularyHead):
        return found
    width = family.tensor_shapes(settings)[family.embedding_name][1]
    part = min(vocabulary, max(starts, OUTPUT // width))
    one = _changed(settings, 1, part)
    return replace(
        found,
        headed=_model(family, one, kept),
        headed_layers=layer_weights(family, one) / own,
        words=vocabulary / part,
    )


def depth(settings: Any) -> int:
    """How many layers the settings say."""
    return next((int(getattr(settings, name)) for name in DEPTHS if hasattr(settings, name)), 1)


def layer_weights(family: type[Model], settings: Any) -> int:
    """The weights of all linear modules that stand in a layer."""
    shapes = family.tensor_shapes(settings)
    modules = (module for module in family.linear_modules(settings) if re.search(r"\.\d+\.", module))
    return sum(int(np.prod(shapes[f"{module}.weight"], dtype=np.int64)) for module in modules)


def _changed(settings: Any, depth: int, vocabulary: int) -> Any:
    """Settings of the first `depth` layers and of fewer words."""
    names = [f.name for f in fields(settings)]
    whole = next(getattr(settings, name) for name in DEPTHS if name in names)
    changes: dict[str, Any] = {"vocab_size": vocabulary}
    for name in names:
        value = getattr(settings, name)
        if name in DEPTHS:
            changes[name] = min(value, depth)
        elif isinstance(value, tuple) and name != "labels" and len(value) == whole:  # one entry a layer
            changes[name] = value[:depth]
    return replace(settings, **changes)


def _model(family: type[Model], settings: Any, kept: Kept) -> Model:
    """A model of random weights; layers share theirs, so that it takes the memory of one."""
    made: dict[tuple[str, tuple[int, ...]], Array] = {}
    tensors = {}
    held = holdable(family, settings) if kept.hold is not None else set()
    rng = np.random.default_rng(0)
    for name, shape in family.tensor_shapes(settings).items():
        key = (re.sub(r"\.\d+\.", ".", name), shape)
        if key not in made:
            made[key] = _numbers(rng, shape).astype(BFLOAT16 if name in held else kept.dtype)
        tensors[name] = made[key]
    model = family(settings, tensors)
    model.recompute = model.recompute or kept.recompute
    return model


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Numbers of the size that weights have: tiny ones would underflow on their way back, which takes long."""
    if len(shape) < 2:
        return np.ones(shape, dtype=np.float32)
    drawn = rng.standard_normal(min(DRAWN, int(np.prod(shape))), dtype=np.float32)
    return np.resize(drawn / np.float32(np.sqrt(shape[-1])), shape)
