"""`tlora-ref export`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.checkpoint.test_export import adapter_of
from tests.cli.conftest import Run
from tests.families.make_tiny import tiny_model


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = tiny_model("llama")
    tr.save_model(model, tmp_path / "m")
    tr.save_peft(adapter_of(model), tmp_path / "a")
    return tmp_path


@pytest.mark.parametrize(
    ("to", "file", "said"),
    [
        ("gguf-lora", "adapter.gguf", "--lora"),
        ("mlx", "adapters.safetensors", "--adapter-path"),
        ("peft-uniform", "adapter_model.safetensors", "PeftModel"),
    ],
)
def test_export(to: str, file: str, said: str, place: Path, run: Run) -> None:
    pytest.importorskip("gguf")
    command = ("export", place / "a", "--to", to, "--out", place / "x", "--model", place / "m")
    status, out, _ = run(*command)
    assert status == 0 and said in out and (place / "x" / file).is_file()
    status, _, error = run(*command)
    assert status == 2 and "already exists" in error
    status, out, _ = run(*command, "--overwrite", "--json")
    assert status == 0 and json.loads(out)["modules"] == 13


def test_bad_input_is_one_line(place: Path, run: Run) -> None:
    for flags, said in (
        (("--to", "mlx"), "--model MODEL"),
        (("--to", "onnx"), "expected one of gguf-lora, mlx, peft-uniform"),
        (("--to", "mlx", "--model", place / "a"), "is an adapter's folder, not a model's"),
    ):
        status, _, error = run("export", place / "a", "--out", place / "x", *flags)
        assert status == 2 and said in error and "Traceback" not in error and not (place / "x").exists()
    status, _, error = run("export", place / "m", "--to", "mlx", "--out", place / "x", "--model", place / "m")
    assert status == 2 and "is a model's folder, not an adapter's" in error
