"""The last few states of a run, each in its folder, and the table of its steps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.tiny import tiny_samples
from tests.training.test_training import bits, prepared
from tlora_ref.errors import CheckpointError, ConfigError, OutputError
from tlora_ref.training import read_history, steps
from tlora_ref.training.history import COLUMNS

DATA = tiny_samples(6)
RUN: dict[str, Any] = {"steps": 7, "batch_size": 2, "lr": 0.02}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_last_few_are_kept_and_any_of_them_leads_to_the_same_end(tmp_path: Path) -> None:
    model, adapter = prepared()
    seen: dict[int, dict[str, bytes]] = {}

    def save(folder: Path) -> None:
        tr.save_peft(adapter, folder)
        seen[len(seen) + 1] = bits(adapter.B)

    tr.train(model, adapter, DATA, **RUN, out=tmp_path, save_every=1, keep_last=3, save_adapter=save)
    assert names(tmp_path) == ["step-5", "step-6", "step-7"]
    model.detach()
    end = bits(adapter.B)
    for step in (5, 6, 7):
        kept = tr.load_peft(tmp_path / "checkpoints" / f"step-{step}")  # the folder stands for the adapter in it
        assert bits(kept.B) == seen[step]
    other, again = prepared()
    options: dict[str, Any] = {**RUN, "out": tmp_path, "resume": True, "save_every": 1, "keep_last": 3}
    result = tr.train(other, again, DATA, **options, from_step=5)
    assert bits(again.B) == end and result.steps == 7
    assert [entry["step"] for entry in read_history(tmp_path)] == list(range(1, 8))
    with pytest.raises(CheckpointError, match=r"step 4 was not kept. The steps there are: 5, 6, 7"):
        tr.train(other, again, DATA, **options, from_step=4)
    with pytest.raises(ConfigError, match="needs resume"):
        tr.train(other, again, DATA, **{**options, "resume": False}, from_step=5)
    with pytest.raises(ConfigError, match="keep_last is 0"):
        tr.train(other, again, DATA, **{**options, "keep_last": 0})


def test_no_step_is_ever_there_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the midst of filling one, and of removing one, leaves those that have a name whole."""
    model, adapter = prepared()
    options: dict[str, Any] = {**RUN, "out": tmp_path, "save_every": 2, "keep_last": 1}

    def killed(folder: Path) -> None:
        folder.mkdir()
        raise SystemExit

    tr.train(model, adapter, DATA, **{**options, "steps": 2, "schedule": "constant", "warmup_steps": 1})
    assert names(tmp_path) == ["step-2"]
    with pytest.raises(SystemExit):
        tr.train(model, adapter, DATA, **{**options, "save_every": 3}, save_adapter=killed)
    assert [name.startswith(".step.") for name in names(tmp_path)] == [True]  # the earlier run's went as this one began
    monkeypatch.setattr("tlora_ref.files.psutil.pid_exists", lambda _: False)  # that process is gone
    with monkeypatch.context() as patch:
        patch.setattr(steps.shutil, "rmtree", lambda *_, **__: None)  # killed before the old one is gone
        tr.train(model, adapter, DATA, **{**options, "save_every": 6, "steps": 6})
    *halves, last = names(tmp_path)
    assert last == "step-6" and halves and all(name.startswith(".step.") for name in halves)
    tr.train(model, adapter, DATA, **options)
    assert names(tmp_path) == ["step-7"]


@pytest.mark.parametrize("step", [6, 7])
def test_a_state_that_a_killed_run_saved_and_did_not_keep(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_folder: Path, at: int, *_: Any) -> None:
        if at == step:
            raise SystemExit
        steps.keep_step(_folder, at, *_)

    model, adapter = prepared()
    options: dict[str, Any] = {**RUN, "out": tmp_path, "save_every": 1, "keep_last": 2}
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("tlora_ref.training.keeping.keep_step", killed)
        tr.train(model, adapter, DATA, **options)
    other, again = prepared()
    tr.train(other, again, DATA, **options, resume=True, save_adapter=lambda folder: tr.save_peft(again, folder))
    assert names(tmp_path) == ["step-6", "step-7"]
    kept = tr.load_peft(tmp_path / "checkpoints" / "step-7")
    assert bits(kept.B) == bits(again.B)


def test_a_run_stopped_while_it_evaluates_ends_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {**RUN, "valid": DATA[:2], "eval_every": 2}
    model, adapter = prepared()
    whole = tr.train(model, adapter, DATA, **options)
    other, again = prepared()

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tlora_ref.training.loop.evaluate", stopped)
        tr.train(other, again, DATA, **options, out=tmp_path)
    third, once_more = prepared()
    resumed = tr.train(third, once_more, DATA, **options, out=tmp_path, resume=True)
    assert resumed.history == whole.history and resumed.kept == whole.kept
    assert bits(once_more.B) == bits(adapter.B)


def test_the_table_has_a_header_and_each_logged_step_once(tmp_path: Path) -> None:
    model, adapter = prepared()

    def stop(entry: dict[str, Any]) -> None:
        if entry["step"] == 5:
            raise SystemExit  # nothing is saved: as a kill

    options: dict[str, Any] = {**RUN, "out": tmp_path, "save_every": 2, "valid": DATA[:2], "eval_every": 3}
    with pytest.raises(SystemExit):
        tr.train(model, adapter, DATA, **options, on_step=stop)
    other, again = prepared()
    result = tr.train(other, again, DATA, **options, resume=True)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and [int(row["step"]) for row in rows] == list(range(1, 8))
    for row, entry in zip(rows, result.history, strict=True):
        for name in ("lr", "loss", "grad_norm"):
            assert float(row[name]) == entry[name]
        assert int(row["tokens"]) == entry["tokens"]
        assert float(row["epoch"]) == pytest.approx(entry["step"] / 3, abs=1e-6)
        assert row["valid_loss"] == (repr(entry["valid_loss"]) if "valid_loss" in entry else "")
        assert row["best"] == str(int(entry.get("best", False)))
    third, once_more = prepared()
    tr.train(third, once_more, DATA, **options, log_every=4)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 3, 4, 6, 7]


def test_a_history_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    model, adapter = prepared()
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(OutputError, match="history cannot be written"):
        tr.train(model, adapter, DATA, **RUN, out=tmp_path)
