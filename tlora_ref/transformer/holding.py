"""Which weights may be held in two bytes."""

from __future__ import annotations

from typing import Any

from tlora_ref.transformer.model import Model

#: The modules beside the base model in transformers' classifiers.
HEADS = ("pre_classifier", "classifier", "score", "pooler", "head")


def holdable(kind: type[Model], config: Any) -> set[str]:
    """Names of the matrices of a model that may be held in bfloat16: those of linear modules, but for heads that are
    kept whole beside an adapter, and embedding tables."""
    ties = kind.ties(config)
    modules = [m for m in kind.linear_modules(config) if m.partition(".")[0] not in HEADS]
    names = [f"{module}.weight" for module in (*modules, *kind.embedding_tables(config))]
    return {ties.get(name, name) for name in names}
