"""What `initialize` asks of a model and of statistics, without either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

from tlora_ref.backend import Array


def weights(weight: Callable[[str], Array]) -> SimpleNamespace:
    """A model of some weights and no head."""
    return SimpleNamespace(weight=weight, whole_head=dict, digest=str, task_type="CAUSAL_LM", labels=())


def statistics(covariance: Mapping[str, Array], *, centre: bool = False) -> SimpleNamespace:
    """Statistics of a model that is not named."""
    return SimpleNamespace(covariance=covariance, centre=centre, model=None)
