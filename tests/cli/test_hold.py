"""--hold bfloat16: every command that reads a model gives what it gives without, and says what it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run

TRAIN = ("--samples", 2, "--rank", 2, "--steps", 2, "--batch-size", 2, "--warmup-ratio", 0)


@pytest.fixture
def two_bytes(folder: Path) -> Path:
    model = tr.load_model(folder / "model", "float32")
    tr.save_model(model, folder / "half", "bfloat16", source=folder / "model")
    return folder


def test_the_same_adapter_losses_and_text(two_bytes: Path, run: Run) -> None:
    data, found = ("--data", two_bytes / "data"), []
    for name, more in (("held", ("--hold", "bfloat16")), ("plain", ("--dtype", "float32"))):
        out = two_bytes / name
        status, said, _ = run("train", two_bytes / "half", *data, "--out", out, *TRAIN, *more)
        assert status == 0 and ("in bfloat16, computed with in float32" in said) is (name == "held")
        adapter = ("--adapter", out / "adapter")
        evaluated = run("eval", two_bytes / "half", *data, *adapter, *more, "--json")
        text = run("generate", two_bytes / "half", *adapter, *more, "--prompt", "w3 w4", "--max-new-tokens", 4)
        assert evaluated[0] == text[0] == 0
        weights = (out / "adapter" / "adapter_model.safetensors").read_bytes()
        found.append((weights, json.loads(evaluated[1]), text[1]))
    assert found[0] == found[1]


def test_a_run_may_be_resumed_with_the_weights_held(two_bytes: Path, run: Run) -> None:
    common = ("train", two_bytes / "half", "--data", two_bytes / "data", "--out", two_bytes / "out", *TRAIN)
    assert run(*common, "--dtype", "float32")[0] == 0
    status, out, error = run(*common, "--dtype", "float32", "--hold", "bfloat16", "--resume")
    assert status == 0, out + error


def test_recompute_leaves_the_bits_and_may_differ_in_a_resumed_run(
    two_bytes: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    training = tr.train
    monkeypatch.setattr(tr, "train", lambda base, *a, **k: (asked.append(base.recompute), training(base, *a, **k))[1])
    found = []
    for name, more in (("plain", ()), ("again", ("--recompute",)), ("held", ("--hold", "bfloat16"))):
        out = two_bytes / name
        assert run("train", two_bytes / "half", "--data", two_bytes / "data", "--out", out, *TRAIN, *more)[0] == 0
        found.append((out / "adapter" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2] and asked == [False, True, True]
    again = ("train", two_bytes / "half", "--data", two_bytes / "data", "--out", two_bytes / "plain", *TRAIN)
    assert run(*again, "--recompute", "--resume")[0] == 0


def test_init_holds(two_bytes: Path, run: Run) -> None:
    common = ("init", two_bytes / "half", "--data", two_bytes / "data", "--samples", 2, "--rank", 2)
    assert run(*common, "--hold", "bfloat16", "--out", two_bytes / "a")[0] == 0
    assert run(*common, "--dtype", "float32", "--out", two_bytes / "b")[0] == 0
    held, plain = (two_bytes / name / "adapter_model.safetensors" for name in "ab")
    assert held.read_bytes() == plain.read_bytes()


def test_what_is_refused(two_bytes: Path, run: Run) -> None:
    data = ("--data", two_bytes / "data")
    for model, more, message in (
        ("half", ("--hold", "float16"), 'expected "bfloat16"'),
        ("half", ("--hold", "bfloat16", "--dtype", "float64"), "computed with in float32"),
        ("model", ("--hold", "bfloat16"), "without rounding"),
    ):
        status, _, error = run("eval", two_bytes / model, *data, *more)
        assert status == 2 and message in error


def test_plan_says_what_fits(two_bytes: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run("plan", two_bytes / "half", "--json")[1])
    weights = {name: taken["weights"] for name, taken in found["bytes"].items()}
    stored = sum(x.nbytes for x in tr.load_model(two_bytes / "half", hold="bfloat16").tensors.values())
    assert weights["bfloat16"] == stored and weights["float64"] == 2 * weights["float32"]
    for name in ("bfloat16", "float32", "float64"):
        work, taken = found["work_bytes"][name], found["bytes"][name]
        assert work["calibrate at once"] == taken["weights"] + 2 * taken["covariances"]
        assert work["generate, evaluate"] == taken["weights"] + taken["adapter"]
    monkeypatch.setattr("tlora_ref.machine.memory", lambda: found["work_bytes"]["float32"]["train B"])
    status, said, _ = run("plan", two_bytes / "half")
    row = next(line for line in said.splitlines() if "train B" in line)
    assert status == 0 and row.count(", no") == 2 and row.index(", yes") < row.index(", no")
    monkeypatch.setattr("tlora_ref.machine.memory", lambda: None)
    assert "fits" not in run("plan", two_bytes / "half")[1]
