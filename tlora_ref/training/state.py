"""The state of a run between two optimizer steps, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tlora_ref.backend import Array, array_module, asarray, to_numpy
from tlora_ref.errors import CheckpointError, ConfigError, OutputError, reason
from tlora_ref.files import beside, parse_json
from tlora_ref.training.history import checked
from tlora_ref.training.settings import TrainSettings

FORMAT = "tlora_ref.training"
VERSION = 3
STATE_FILE = "training_state.safetensors"


@dataclass(frozen=True)
class Best:
    """The arrays with the least held-out loss so far, that loss, and after which step it was."""

    step: int
    loss: float
    arrays: dict[str, Array] = field(repr=False)


@dataclass(frozen=True)
class TrainState:
    """Everything that the next step depends on. A step makes a new one, so an interrupt never leaves half a step.

    The data order and every random choice follow from the seed and `step`, so no generator's state is stored.
    """

    step: int
    arrays: dict[str, Array] = field(repr=False)
    exp_avg: dict[str, Array] = field(repr=False)
    exp_avg_sq: dict[str, Array] = field(repr=False)
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    best: Best | None = None

    @staticmethod
    def start(arrays: dict[str, Array]) -> TrainState:
        """Before the first step: moments zero."""

        def zeros() -> dict[str, Array]:
            return {name: array_module(x).zeros_like(x) for name, x in arrays.items()}

        return TrainState(0, dict(arrays), zeros(), zeros())


def save_state(state: TrainState, identity: dict[str, Any], folder: Path) -> None:
    """Write `state` to `folder` (beside, then renamed). `identity` says which run it belongs to."""
    tensors: dict[str, Array] = {}
    for kind in ("arrays", "exp_avg", "exp_avg_sq"):
        tensors |= {f"{kind}/{name}": to_numpy(x) for name, x in getattr(state, kind).items()}
    facts = {"version": VERSION, "step": state.step, "history": state.history, "identity": identity}
    if state.best is not None:
        facts["best"] = {"step": state.best.step, "loss": state.best.loss}
        tensors |= {f"best/{name}": to_numpy(x) for name, x in state.best.arrays.items()}
    metadata = {FORMAT: json.dumps(facts)}  # one entry: safetensors writes several in an order that differs every time
    path = folder / STATE_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with beside(path) as new:
            save_file(tensors, new, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder}: the state of the training run cannot be written ({reason(error)})") from error


def planned_steps(folder: Path) -> int | None:
    """How many steps the run in `folder` is to have, by its state; None where none was saved, CheckpointError where it
    is damaged."""
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            identity = dict(parse_json((file.metadata() or {}).get(FORMAT, "{}"))["identity"])
        samples = int(identity.pop("samples"))
        del identity["data_sha256"]
        return TrainSettings(**identity).total_steps(samples)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged training state ({reason(error)}). Start the run again") from error


def load_state(
    folder: Path, identity: dict[str, Any], like: dict[str, Array], *, free: frozenset[str] = frozenset()
) -> tuple[TrainState, dict[str, Any]]:
    """Read what `save_state` wrote, onto the device of the arrays in `like`; and the identity it was saved under, which
    must be `identity` but for the `free` entries.

    Raises
    ------
    CheckpointError
        if there is no state or it is damaged.
    ConfigError
        if it belongs to another run; the message names what differs.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: no training state to resume from. Start the run without resuming")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = parse_json((file.metadata() or {}).get(FORMAT, "{}"))
            if not isinstance(facts, dict) or facts.get("version") != VERSION:
                raise CheckpointError(f"{path}: not a training state of version {VERSION} of this library")
            step, history, then = int(facts["step"]), checked(facts["history"]), dict(facts["identity"])
            best = None if "best" not in facts else (int(facts["best"]["step"]), float(facts["best"]["loss"]))
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: damaged training state ({reason(error)}). Start the run again") from error
    differing = [k for k in identity if k not in free and then.get(k) != identity[k]]
    if differing:
        shown = "; ".join(f"{k}: then {then.get(k)!r}, now {identity[k]!r}" for k in differing[:4])
        raise ConfigError(f"{path} is of another run and cannot be resumed ({shown})")
    kinds: dict[str, dict[str, Array]] = {"arrays": {}, "exp_avg": {}, "exp_avg_sq": {}}
    if best is not None:
        kinds["best"] = {}
    for kind, placed in kinds.items():
        for name, reference in like.items():
            x = stored.get(f"{kind}/{name}")
            if x is None or x.shape != reference.shape or x.dtype != reference.dtype:
                raise CheckpointError(f"{path}: damaged training state: {kind} of {name} is missing or misshaped")
            placed[name] = asarray(x, like=reference)
    state = TrainState(step, kinds["arrays"], kinds["exp_avg"], kinds["exp_avg_sq"], history)
    return (state if best is None else replace(state, best=Best(*best, kinds["best"]))), then
