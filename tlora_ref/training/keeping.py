"""Which of a run's arrays are kept, and when it ends early: by the held-out loss, outside the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tlora_ref.training.state import Best, TrainState

#: What an adapter holds at the end: the arrays of least held-out loss, or those of the last step.
KEPT = ("best", "last")


def evaluated(state: TrainState, loss: float) -> TrainState:
    """The state with this held-out loss in its history, and its arrays as the best ones if it is the least so far.

    A tie keeps the earlier arrays. The arrays are shared: a step makes new ones and changes none in place.
    """
    entry = {**state.history[-1], "valid_loss": loss}
    best = state.best
    if best is None or loss < best.loss:
        entry["best"] = True
        best = Best(state.step, loss, state.arrays)
    return replace(state, history=[*state.history[:-1], entry], best=best)


def out_of_patience(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations were none of them the best so far; never for None."""
    if patience is None:
        return False
    found = [bool(entry.get("best")) for entry in history if "valid_loss" in entry]
    return len(found) >= patience and not any(found[-patience:])
