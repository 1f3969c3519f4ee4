"""Which arrays a run trains, and how they are put back where the forward pass reads them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array, widened
from tlora_ref.errors import ConfigError
from tlora_ref.training.settings import TrainSettings
from tlora_ref.transformer import Model


def trained_arrays(model: Model, adapter: Adapter | None, settings: TrainSettings) -> dict[str, Array]:
    """{leaf name: array} of everything that `settings.trainable` and `settings.also` name.

    Raises
    ------
    ConfigError
        if an adapter is needed and missing, or `also` names a tensor that the model lacks.
    """
    if settings.trainable == "all":
        if adapter is not None:
            raise ConfigError('trainable="all" trains the model\'s own weights: pass adapter=None')
        return {name: widened(x) for name, x in model.tensors.items()}
    if adapter is None:
        raise ConfigError(f'trainable="{settings.trainable}" trains an adapter: make one with tlora_ref.initialize')
    arrays = {f"{m}.lora_B.weight": B for m, B in adapter.B.items()}
    if settings.trainable == "AB":
        arrays |= {f"{m}.lora_A.weight": A for m, A in adapter.A.items()}
    for name in whole_tensors(model, settings.also):
        arrays[name] = adapter.saved[name] if name in adapter.saved else widened(model.tensors[name])
    if not arrays:
        raise ConfigError("there is nothing to train: the adapter has no module of rank 1 or more")
    return arrays


def whole_tensors(model: Model, also: Iterable[str]) -> list[str]:
    """The tensors that `also` names, by themselves or as all of a module ("classifier").

    Raises
    ------
    ConfigError
        for a name that is neither; it says which come near.
    """
    found: list[str] = []
    for name in also:
        tensors = [tensor for tensor in model.tensors if tensor == name or tensor.startswith(f"{name}.")]
        if not tensors:
            raise ConfigError(f'also: the model has no tensor or module "{name}". {_instead(model, name)}')
        found += tensors
    return list(dict.fromkeys(found))


def _instead(model: Model, name: str) -> str:
    """What may be meant by a name that the model lacks: the table it is tied to, the end of a path, or a slip."""
    tied = {other: table for other, table in model.ties(model.config).items() if f".{name}." in f".{other}."}
    if tied:
        return f"It is tied to {', '.join(dict.fromkeys(tied.values()))}: name that, and it is trained in all its uses"
    ends = [tensor for tensor in model.tensors if f".{name}." in f".{tensor}."]
    near = ends[:3] or get_close_matches(name, model.tensors, cutoff=0.4) or list(model.tensors)[-3:]
    return f"It has, for one, {', '.join(near)}"


def install(arrays: dict[str, Array], model: Model, adapter: Adapter | None) -> None:
    """Put trained arrays where the forward pass reads them: the adapter, or the model for trainable="all".

    A tensor trained beside an adapter goes into `adapter.saved`: W_0 itself is never changed by an adapter's run.
    """
    for name, array in arrays.items():
        if adapter is None:
            model.tensors[name] = array
        elif name.endswith(".lora_B.weight"):
            adapter.B[name.removesuffix(".lora_B.weight")] = array
        elif name.endswith(".lora_A.weight"):
            adapter.A[name.removesuffix(".lora_A.weight")] = array
        else:
            if name not in adapter.saved:
                others = tuple(other for other, own in model.ties(model.config).items() if own == name)
                adapter.tied |= {name: others} if others else {}  # a tied table is trained in all its uses
            adapter.saved[name] = array
            adapter.untrained.discard(name)
            adapter.base.discard(name)
