"""TensorBoard's events, read back record by record: every step once, also after a run was stopped and resumed."""

from __future__ import annotations

import struct
from collections import defaultdict
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.cli.conftest import folder as folder  # a model and data, and a way to run commands
from tests.cli.conftest import run as run
from tlora_ref.training import read_history
from tlora_ref.training.tensorboard import CURVES

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX: the extra `tensorboard`")


def events(out: Path) -> dict[str, list[tuple[int, float]]]:
    """{curve: its steps and values, in the order of the files}: TFRecord, each a length, a check, data, a check."""
    found = defaultdict(list)
    for file in sorted((out / "tensorboard").glob("events*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
            data = data[16 + length :]
    return dict(found)


def expected(out: Path) -> dict[str, list[tuple[int, float]]]:
    history = read_history(out)
    return {
        name: [(e["step"], pytest.approx(e[key], rel=1e-6)) for e in history if key in e]
        for key, name in CURVES.items()
    }


def words(folder: Path, *more: object) -> list[object]:
    return ["train", folder / "model", "--data", folder / "data", "--out", folder / "run", "--rank", 2, "--samples", 3,
            "--batch-size", 2, "--steps", 7, "--eval-every", 3, "--log", "tensorboard", *more]  # fmt: skip


def test_the_events_are_the_history(folder: Path, run: Run) -> None:
    assert run(*words(folder))[0] == 0
    found = events(folder / "run")
    assert found == expected(folder / "run")
    assert [step for step, _ in found["train/loss"]] == list(range(1, 8))
    assert [step for step, _ in found["valid/loss"]] == [3, 6, 7]


def test_a_resumed_run_repeats_no_step(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped like a power cut after step 5, with a state of step 4: step 5 is made again."""
    add = tr.training.history.Record.add

    def cut(self: object, entry: dict[str, object]) -> None:
        if entry["step"] == 6:
            raise MemoryError("the power is gone")
        add(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(tr.training.history.Record, "add", cut)
        assert run(*words(folder, "--save-every", 4))[0] == 2
    assert [step for step, _ in events(folder / "run")["train/loss"]] == [1, 2, 3, 4, 5]
    assert run(*words(folder, "--save-every", 4, "--resume"))[0] == 0
    assert events(folder / "run") == expected(folder / "run")


def test_what_else_is_refused(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, error = run(*words(folder)[:-1], "wandb")
    assert status == 2 and "expected tensorboard" in error and not (folder / "run").exists()
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    status, _, error = run(*words(folder))
    assert status == 2 and "pip install 'tlora-ref[tensorboard]'" in error and not (folder / "run").exists()
