"""What an adapter does to a model's weights: which tensor each place reads, whether an adapter fits, and merging."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from tlora_ref.backend import Array, to_numpy, widened
from tlora_ref.errors import CheckpointError, ConfigError, ShapeError

#: How many names an error lists.
MAX_NAMED = 20


class Claims(Protocol):
    """What an adapter's configuration says that its file holds."""

    def missing(
        self, linears: Sequence[str], tables: Sequence[str], tensors: Sequence[str], held: Collection[str]
    ) -> list[str]: ...


class AttachedAdapter(Protocol):
    """What a model needs of an adapter (`tlora_ref.adapter.Adapter` is one)."""

    A: dict[str, Array]
    B: dict[str, Array]
    scale: dict[str, float]
    saved: dict[str, Array]
    tied: dict[str, tuple[str, ...]]
    base: set[str]

    @property
    def claims(self) -> Claims | None: ...
    def merged_weight(self, name: str, W: Array) -> Array: ...


def read_by(
    name: str, tensors: Mapping[str, Array], ties: Mapping[str, str], adapter: AttachedAdapter | None
) -> tuple[str | None, Array]:
    """What the place called `name` reads: the array, and the name that it is trained by (None: it is not).

    A tensor that is used under several names (`ties`) may be replaced in one place alone, as PEFT's `modules_to_save`
    does, or wherever it is used: those in the adapter's `tied` and `base`.
    """
    own = ties.get(name, name)
    if adapter is None:
        return own, tensors[own]
    if name in adapter.saved:
        return name, adapter.saved[name]
    for other in (*adapter.tied, *adapter.base):
        if ties.get(other, other) == own:
            return other, adapter.saved[other]
    return None if own in adapter.saved else own, tensors[own]  # `own` is then the name of what is saved


# ---------------------------------------------------------------------------------------------- does it fit?
def check_adapter(model: Any, adapter: AttachedAdapter) -> None:
    """All of `adapter` has a place in `model`, of its shape and dtype; see `Model.attach`."""
    ties = model.ties(model.config)
    for name, tensor in adapter.saved.items():
        _check_whole(model, name, tensor, ties)
    for name in adapter.A:
        _check_pair(model, adapter, name)
    if adapter.claims is not None:
        tables = model.embedding_tables(model.config)
        linears = [*model.linear_modules(model.config), *(name.removesuffix(".weight") for name in ties)]
        held = {*adapter.A, *adapter.saved, *(name for names in adapter.tied.values() for name in names)}
        missing = adapter.claims.missing([m for m in linears if m not in tables], tables, [*model.tensors, *ties], held)
        if missing:
            more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
            raise CheckpointError(
                "adapter_config.json names what adapter_model.safetensors lacks: "
                f"{', '.join(missing[:MAX_NAMED])}{more}. Save the adapter again, or narrow target_modules and "
                "modules_to_save to what it holds"
            )
    _warn_of_ties(model, adapter, ties)


def _warn_of_ties(model: Any, adapter: AttachedAdapter, ties: Mapping[str, str]) -> None:
    """Say what an adapter of PEFT's does to a tied table, which few expect."""
    alone = [name for name in adapter.saved if name not in adapter.tied and name not in adapter.base]
    unread = [name for name in (*adapter.A, *alone) if name.removesuffix(".weight") in model.unread]
    if unread:
        warnings.warn(
            f"the adapter changes {', '.join(unread)}, which a {model.config.model_type} model does not read by that "
            "name: as in PEFT, that part of the adapter has no effect",
            stacklevel=4,
        )
    uses = {name for pair in ties.items() for name in pair}
    replaced = [name for name in alone if name in uses and name not in unread]
    kept = sorted(uses - set(replaced))
    if replaced and kept:
        warnings.warn(
            f"the adapter replaces {', '.join(replaced)}, which this model ties to {', '.join(kept)}: as in PEFT, the "
            "latter keep the model's own values",
            stacklevel=4,
        )


def _check_whole(model: Any, name: str, tensor: Array, ties: Mapping[str, str]) -> None:
    own = ties.get(name, name)
    if own not in model.tensors:
        raise ConfigError(f'the adapter holds "{name}" whole, which this model does not have')
    W = model.tensors[own]
    if tensor.shape != W.shape and name.removesuffix(".weight") in _vocabularies(model):
        raise _resized(name, tensor.shape[0], W.shape[0])
    if tensor.shape != W.shape or tensor.dtype != model.dtype:
        raise ShapeError(
            f"the adapter's {name} is {tensor.shape} {tensor.dtype}, the model's {W.shape} {model.dtype}. "
            "Was it made for another model?"
        )


def _vocabularies(model: Any) -> set[str]:
    """The modules that have a row a token: embedding tables and the output matrix."""
    names = {
        *model.embedding_tables(model.config),
        *(name.removesuffix(".weight") for name in model.ties(model.config)),
    }
    return names | {getattr(model, "output_name", "").removesuffix(".weight")}


def _resized(name: str, rows: int, vocabulary: int) -> ShapeError:
    return ShapeError(
        f"the adapter's {name} has {rows} rows, the model's {vocabulary}: the vocabulary was resized before the "
        f"adapter was trained. Resize the model as it was then (in transformers: model.resize_token_embeddings({rows}) "
        "and save_pretrained), and use the adapter with that"
    )


def _check_pair(model: Any, adapter: AttachedAdapter, name: str) -> None:
    if not model.adaptable(name):
        raise ConfigError(f'the adapter adapts "{name}", which is no linear module or embedding of this model')
    if name not in adapter.B or name not in adapter.scale:
        raise ConfigError(f"adapter of {name}: it has A but no {'scale' if name in adapter.B else 'B'}")
    d_out, d_in = model.weight(name).shape
    A, B = adapter.A[name], adapter.B[name]
    if A.shape[1:] != (d_in,) or B.shape != (d_out, A.shape[0]):
        if name in _vocabularies(model):
            rows, vocabulary = (B.shape[0], d_out) if name in _outputs(model) else (A.shape[1], d_in)
            if rows != vocabulary:
                raise _resized(name, rows, vocabulary)
        raise ShapeError(
            f"adapter of {name}: A is {A.shape} and B {B.shape}, but W is {(d_out, d_in)}: expected A "
            f"(r, {d_in}) and B ({d_out}, r). Was it made for another model?"
        )
    if A.dtype != model.dtype or B.dtype != model.dtype:
        raise ShapeError(
            f"adapter of {name} is {A.dtype}/{B.dtype}, the model {model.dtype}: load both with the same dtype"
        )


def _outputs(model: Any) -> set[str]:
    return {getattr(model, "output_name", "").removesuffix(".weight")}


# ---------------------------------------------------------------------------------------------- merging
def merged(model: Any, adapter: AttachedAdapter) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every tensor of `model` with `adapter` in it (Eq. 1), and those of the ties that have their own tensor now."""
    ties = model.ties(model.config)

    def with_adapter(name: str) -> Array:
        _, W = read_by(name, model.tensors, ties, adapter)
        module = name.removesuffix(".weight")
        if module not in adapter.A:
            return W
        if model.is_table(module):
            return adapter.merged_weight(module, widened(W).T).T
        return adapter.merged_weight(module, widened(W))

    tensors = {name: with_adapter(name) for name in model.tensors}
    for name, own in reversed(ties.items()):
        if own.removesuffix(".weight") in model.unread:  # it is what its first use reads
            tensors[own] = with_adapter(name)
    apart = {}
    for name, own in ties.items():
        W = with_adapter(name)
        if W is not tensors[own] and not _same_update(
            adapter, name.removesuffix(".weight"), own.removesuffix(".weight")
        ):
            apart[name] = W
    return tensors, apart


def _same_update(adapter: AttachedAdapter, output: str, table: str) -> bool:
    """Whether the output matrix and the table that it is tied to get one update (PEFT's `ensure_weight_tying`)."""
    if output not in adapter.A or table not in adapter.A or adapter.scale[output] != adapter.scale[table]:
        return False
    pairs = ((adapter.A[output], adapter.B[table].T), (adapter.B[output], adapter.A[table].T))
    return all(x.shape == y.shape and bool((to_numpy(x) == to_numpy(y)).all()) for x, y in pairs)
