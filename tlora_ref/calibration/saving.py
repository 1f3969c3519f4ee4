"""A calibration kept in a file while it runs, so that whatever ends it early costs a few minutes at most."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tlora_ref.backend import Array, to_numpy
from tlora_ref.calibration.statistics import CalibrationStats
from tlora_ref.errors import CheckpointError, ConfigError, OutputError, reason
from tlora_ref.files import beside, parse_json

FORMAT = "tlora_ref.calibration.unfinished"
VERSION = 1
CALIBRATION_FILE = "calibration.safetensors"
#: A calibration is saved at most so often, in seconds; less often where one saving takes more than a tenth of that.
SAVE_SECONDS = 300.0


@dataclass
class Sums:
    """How far a calibration has come: the sums over all finished blocks, and those of the block at work."""

    done: CalibrationStats | None = None
    block: CalibrationStats | None = None

    @property
    def samples(self) -> int:
        """How many samples are in them."""
        return sum(part.samples for part in (self.done, self.block) if part is not None)

    def add_block(self, block: CalibrationStats) -> None:
        """The block at work is finished: its sums join the others, in this order everywhere."""
        with held_back():
            if self.done is None:
                self.done = block
            else:
                self.done.absorb(block)
            self.block = None


@dataclass
class SavedSums:
    """Writes the sums of one calibration to `file` (nowhere, for None) by the clock. `identity` says which it is."""

    file: Path | None
    identity: dict[str, Any]
    seconds: float = SAVE_SECONDS
    written: bool = False

    def __post_init__(self) -> None:
        self._next = time.perf_counter() + self.seconds

    def save_if_due(self, sums: Sums) -> None:
        """`save` where the last time is long ago."""
        if time.perf_counter() >= self._next:
            self.save(sums)

    def save(self, sums: Sums) -> None:
        """All the sums so far: written beside, then renamed. OutputError where that fails."""
        if self.file is None or not sums.samples:
            return
        began = time.perf_counter()
        tensors: dict[str, Array] = {}
        facts: dict[str, Any] = {"version": VERSION, "identity": self.identity}
        for name, part in (("done", sums.done), ("block", sums.block)):
            if part is not None:
                own, facts[name] = part.packed(f"{name}/")
                tensors |= own
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with beside(self.file) as new:
                save_file(tensors, new, metadata={FORMAT: json.dumps(facts)})
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{self.file}: the calibration so far cannot be written ({reason(error)})") from error
        self.written = True
        now = time.perf_counter()
        self._next = now + max(self.seconds, 10 * (now - began))

    def load(self) -> Sums:
        """What `save` wrote last.

        Raises
        ------
        CheckpointError
            if there is no such file, or it is damaged.
        ConfigError
            if it is of another calibration; the message names what differs.
        """
        if self.file is None or not self.file.is_file():
            raise CheckpointError(f"{self.file}: no calibration to resume. Start without resuming")
        try:
            with safe_open(self.file, framework="numpy") as file:
                facts = parse_json((file.metadata() or {}).get(FORMAT, "{}"))
                if not isinstance(facts, dict) or facts.get("version") != VERSION:
                    raise CheckpointError(f"{self.file}: not an unfinished calibration of version {VERSION}")
                self._compare(dict(facts["identity"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: CalibrationStats.unpacked(tensors, facts[name], f"{name}/")
                for name in ("done", "block")
                if name in facts
            }
            sums = Sums(**found)
            self._check(sums, tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.file}: damaged calibration ({reason(error)}). Start again without resuming"
            ) from error
        self.written = True
        return sums

    def _check(self, sums: Sums, tensors: Mapping[str, Array]) -> None:
        """ValueError unless the file holds the sums of its samples and nothing else."""
        parts = [("done", sums.done), ("block", sums.block)]
        names = {f"{name}/{m}" for name, part in parts if part is not None for m in part.covariance_sums}
        if names != tensors.keys() or not 0 < sums.samples <= self.identity["samples"]:
            raise ValueError("its sums and samples do not agree")
        for _, part in parts:
            if part is not None:
                part.check(Path(self.file or ""))
                if part.samples != len(part.losses):
                    raise ValueError("it has not one loss a sample")

    def _compare(self, then: Mapping[str, Any]) -> None:
        differing = [name for name, now in self.identity.items() if then.get(name) != now]
        if differing:
            shown = "; ".join(f"{name}: then {then.get(name)!r}, now {self.identity[name]!r}" for name in differing[:4])
            raise ConfigError(f"{self.file} is of another calibration and cannot be resumed ({shown})")


def samples_digest(samples: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
    """SHA-256 of what a model gets of the samples, in their order."""
    found = hashlib.sha256()
    for sample in samples:
        values = {name: np.asarray(to_numpy(sample[name])).tolist() for name in fields if name in sample}
        found.update(json.dumps(values).encode())
    return found.hexdigest()


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: what it changes in place is never left half changed."""
    if threading.current_thread() is not threading.main_thread():  # signals are answered in the main thread alone
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda which, _frame: came.append(which))
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
