"""Which of a run's arrays are kept, and when it ends early: by the held-out loss, outside the arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.training.state import Best, TrainState, save_state
from tlora_ref.training.steps import keep_step

#: What an adapter holds at the end: the arrays of least held-out loss, or those of the last step.
KEPT = ("best", "last")


def check_kept(keep: str) -> None:
    """ConfigError for something else than KEPT."""
    if keep not in KEPT:
        raise ConfigError(f"keep is {keep!r}, expected {' or '.join(KEPT)}")


def check_kept_steps(keep_last: int | None, from_step: int | None, *, resume: bool) -> None:
    """ConfigError for fewer than one step to keep, or a step to go back to in a run that begins."""
    if keep_last is not None and keep_last < 1:
        raise ConfigError(f"keep_last is {keep_last}: expected at least 1, or None to keep no steps")
    if from_step is not None and not resume:
        raise ConfigError("from_step says where a run is resumed: it needs resume=True")


def kept_arrays(state: TrainState, keep: str) -> tuple[int, dict[str, Array]]:
    """The step whose arrays a run of this last state keeps, and those arrays."""
    if keep == "best" and state.best is not None:
        return state.best.step, state.best.arrays
    return state.step, state.arrays


@dataclass
class Saving:
    """Writes a run's state to `folder` (nowhere, for None): `due` every so many steps, or so many seconds after the
    last time. With `keep_last` the last so many are kept, each in a folder of its step with what `save_adapter` writes.
    """

    folder: Path | None
    identity: dict[str, Any]
    every: int | None
    seconds: float
    last: float
    keep_last: int | None = None
    save_adapter: Callable[[Path], object] | None = None

    def due(self, step: int) -> bool:
        return bool(self.every and step % self.every == 0) or time.perf_counter() - self.last >= self.seconds

    def __call__(self, state: TrainState) -> None:
        if self.folder is not None:
            save_state(state, self.identity, self.folder)
            self.keep(state)
        self.last = time.perf_counter()

    def keep(self, state: TrainState) -> None:
        """The state that stands in `folder` as one of the last so many."""
        if self.folder is not None and self.keep_last is not None:
            keep_step(self.folder, state.step, self.keep_last, self.save_adapter)


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
