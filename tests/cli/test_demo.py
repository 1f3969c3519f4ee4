"""The demo: the main job by the commands that it shows."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tlora_ref import shipped
from tlora_ref.errors import CheckpointError


def test_the_demo_shows_and_does_the_main_job(tmp_path: Path, run: Run) -> None:
    status, said, _ = run("demo", "--steps", 2, "--out", tmp_path / "d")
    assert status == 0
    shown = [line.split()[2] for line in said.splitlines() if line.startswith("$ tlora-ref ")]
    assert shown == ["eval", "train", "eval", "generate"]
    assert tr.load_peft(tmp_path / "d" / "adapter").B
    losses = [float(line.split()[1]) for line in said.splitlines() if line.startswith("loss ")]
    assert len(losses) == 2 and losses[1] < losses[0]
    status, _, error = run("demo", "--steps", 2, "--out", tmp_path / "d")
    assert status == 2 and "already exists" in error


def test_an_installed_wheel_finds_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a wheel's record lists it, and not there at all."""
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "lib" / "tlora_ref" / "shipped.py"))
    with pytest.raises(CheckpointError, match="came without the model"):
        monkeypatch.setattr(shipped, "files", lambda _: None)
        shipped.shipped_model()
    place = tmp_path / "share" / "tlora_ref" / "tiny-math-llama"
    place.mkdir(parents=True)
    entry = metadata.PackagePath("../share/tlora_ref/tiny-math-llama/config.json")
    entry.dist = metadata.PathDistribution(tmp_path / "lib" / "tlora_ref-0.dist-info")  # type: ignore[attr-defined]
    monkeypatch.setattr(shipped, "files", lambda _: [entry])
    assert shipped.shipped_model() == place
