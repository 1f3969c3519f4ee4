"""A run's history as TensorBoard's events: a curve a quantity, each step once however often the run was resumed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.training.history import read_history

FOLDER = "tensorboard"

#: Key of a history's entry -> the curve's name.
CURVES = {
    "loss": "train/loss",
    "valid_loss": "valid/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens": "train/tokens",
}


class TensorBoard:
    """Called with each step's entry of the history (`on_step` of `train`), it writes `out/tensorboard`.

    A run that goes on after a stop may make steps again that were written before: at its first entry the events are
    written anew, from `out/history.jsonl` up to that step, so that no reader finds a step twice.

    Raises
    ------
    ConfigError
        where tensorboardX is not installed: asked at once, before anything is computed.
    """

    def __init__(self, out: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise ConfigError(
                "--log tensorboard needs the package tensorboardX: pip install 'tlora-ref[tensorboard]'"
            ) from None
        self.out = out
        self._open = SummaryWriter
        self._writer: Any = None

    def __call__(self, entry: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._begin(entry["step"])
        self._write(entry)

    def close(self) -> None:
        """All that was written is on the disk."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, step: int) -> None:
        """The events of the steps before `step`, without those of an earlier try."""
        shutil.rmtree(self.out / FOLDER, ignore_errors=True)
        # purge_step tells a TensorBoard that is open now to forget what it has read
        self._writer = self._open(str(self.out / FOLDER), purge_step=1, flush_secs=10)
        before = {entry["step"]: entry for entry in read_history(self.out) if entry["step"] < step}
        for number in sorted(before):
            self._write(before[number])

    def _write(self, entry: Mapping[str, Any]) -> None:
        for key, name in CURVES.items():
            if key in entry:
                self._writer.add_scalar(name, entry[key], entry["step"])
