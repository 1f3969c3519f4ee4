"""`train --packing`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.families.common import tiny
from tests.tiny import tiny_samples


def test_a_packed_run_has_the_losses_of_an_unpacked_one(folder: Path, run: Run) -> None:
    common = ["--samples", 2, "--rank", 3, "--batch-size", 4, "--steps", 4, "--dtype", "float64", "--json"]
    command = ["train", folder / "model", "--data", folder / "data", *common]
    found = []
    for out, more in (("plain", []), ("packed", ["--packing", "--max-length", 24])):
        status, said, _ = run(*command, "--out", folder / out, *more)
        assert status == 0
        found.append([entry["loss"] for entry in json.loads(said)["history"]])
    assert found[1] == pytest.approx(found[0], rel=1e-10)
    manifest = json.loads((folder / "packed" / "manifest.json").read_text())
    assert manifest["settings"]["packing"] == 24
    status, _, said = run(*command, "--out", folder / "none", "--packing")
    assert status != 0 and "--packing" in said and "--max-length" in said and not (folder / "none").exists()


def test_a_family_that_cannot_is_refused_before_anything_is_computed(tmp_path: Path, run: Run) -> None:
    tr.save_model(tiny("lfm2"), tmp_path / "model")
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(sample) for sample in tiny_samples(4)), encoding="utf-8")
    command = ["train", tmp_path / "model", "--data", tmp_path / "d.jsonl", "--out", tmp_path / "o", "--steps", 2]
    status, said, error = run(*command, "--packing", "--max-length", 24)
    assert status != 0 and "lfm2" in error and "convolutions run along the row" in error
    assert "calibrating" not in said + error and not (tmp_path / "o").exists()
