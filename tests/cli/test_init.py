"""`init`: statistics kept and used again, workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.tiny import tiny_llama


def test_init_reuses_statistics_and_prints_json(folder: Path, run: Run) -> None:
    common = ("init", folder / "model", "--data", folder / "data", "--samples", 5, "--rank", 2, "--json")
    status, said, _ = run(*common, "--out", folder / "a", "--save-stats", folder / "stats.safetensors")
    assert status == 0
    one = json.loads(said)["plan"]
    status, said, _ = run(*common, "--out", folder / "b", "--stats", folder / "stats.safetensors")
    assert status == 0 and json.loads(said)["plan"] == one
    same = [(folder / name / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert same[0] == same[1]
    status, _, error = run(*common, "--out", folder / "c", "--profile", "published")
    assert status == 2 and 'profile "published" is unknown' in error and not (folder / "c").exists()


def test_statistics_are_saved_where_they_can_be(folder: Path, run: Run) -> None:
    common = ("init", folder / "model", "--out", folder / "a", "--samples", 2)
    for path, match in ((folder / "data", "is a folder"), (folder / "none" / "stats.safetensors", "does not exist")):
        status, said, error = run(*common, "--data", folder / "data", "--save-stats", path)
        assert status == 2 and match in error and "calibrating" not in said
    status, _, error = run(*common)
    assert status == 2 and "--data" in error and "--stats" in error
    file = folder / "stats.safetensors"
    assert run(*common, "--data", folder / "data", "--save-stats", file)[0] == 0
    status, said, _ = run(*common, "--overwrite", "--stats", file, "--target", "v_proj", "--json")
    assert status == 0 and list(json.loads(said)["plan"]["rank"]) == [
        f"model.layers.{i}.self_attn.v_proj" for i in (0, 1)
    ]
    tr.save_model(tiny_llama(intermediate_size=20), folder / "other")
    status, _, error = run("init", folder / "other", "--out", folder / "b", "--stats", file)
    assert status == 2 and "mlp.gate_proj" in error and "another model" in error


def test_workers_calibrate_to_the_same_bits(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    for workers in (1, 2):
        status, _, _ = run(
            *("init", folder / "model", "--data", folder / "data", "--samples", 8, "--rank", 2),
            *("--out", folder / f"a{workers}", "--workers", workers),
        )
        assert status == 0
    one, two = ((folder / f"a{n}" / "adapter_model.safetensors").read_bytes() for n in (1, 2))
    assert one == two


def test_layers_at_once_make_the_same_adapter(folder: Path, run: Run) -> None:
    common = ("init", folder / "model", "--data", folder / "data", "--samples", 4, "--rank", 2)
    assert run(*common, "--out", folder / "whole")[0] == 0
    status, said, _ = run(*common, "--out", folder / "parts", "--layers-at-once", 1)
    assert status == 0 and "Allocation" in said
    one, two = ((folder / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two and sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    for more in (("--save-stats", folder / "stats.safetensors"), ("--resume",)):
        status, _, error = run(*common, "--out", folder / "c", "--layers-at-once", 1, *more)
        assert status == 2 and ("leave out --save-stats" in error or "no calibration to resume" in error)
