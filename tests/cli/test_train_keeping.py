"""What a run keeps: the best weights, its state on SIGTERM; held-out rows drawn from the data; runs made longer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.cli.test_train import train
from tests.tiny import tiny_samples


def test_the_adapter_holds_the_weights_of_least_held_out_loss(folder: Path, run: Run) -> None:
    held = tiny_samples(3, seed=9)  # of which the training data say nothing
    file = folder / "held.jsonl"
    file.write_text("\n".join(map(json.dumps, held)))
    hot = ("--valid", file, "--steps", 12, "--eval-every", 1, "--lr", 1, "--schedule", "constant", "--warmup-ratio", 0)
    status, said, _ = run(*train(folder, "a", *hot, "--json"))
    found = json.loads(said)
    losses = [entry["valid_loss"] for entry in found["history"]]
    least = int(np.argmin(losses)) + 1
    assert status == 0 and found["kept"] == least < 12 and found["valid_loss_after"] == min(losses)
    model = tr.load_model(folder / "model", "float32")
    model.attach(tr.load_peft(folder / "a" / "adapter", "float32"))
    assert tr.evaluate(model, held).loss == pytest.approx(min(losses), rel=1e-6)
    _, said, _ = run(*train(folder, "b", *hot))
    assert f"kept: the weights of step {least} of 12" in said
    _, said, _ = run(*train(folder, "c", *hot, "--keep", "last", "--json"))
    assert json.loads(said)["kept"] == 12
    _, said, _ = run(*train(folder, "d", *hot, "--patience", 2, "--json"))
    found = json.loads(said)
    assert found["kept"] == found["steps"] - 2 < 10


def test_a_share_is_held_out(folder: Path, run: Run) -> None:
    file = folder / "data" / "train.jsonl"
    common = ["train", folder / "model", "--data", file, "--samples", 2, "--rank", 3, "--batch-size", 4]
    status, said, _ = run(*common, "--out", folder / "a", "--steps", 3, "--valid-share", 0.25)
    assert status == 0 and "on 6 samples, 2 held out" in said
    for flags, text in (
        (("--valid-share", 0.99), "leaves rows to train on"),
        (("--valid-share", 0.2, "--valid", folder / "data" / "valid.jsonl"), "give one of the two"),
        (("--patience", 2), "goes by held-out data"),
    ):
        status, _, error = run(*common, "--out", folder / "b", "--steps", 3, *flags)
        assert status == 2 and text in error and not (folder / "b").exists()


def test_a_run_is_made_longer_where_that_makes_sense(folder: Path, run: Run) -> None:
    constant = ("--schedule", "constant", "--warmup-steps", 1, "--keep", "last")
    assert run(*train(folder, "long", "--steps", 8, *constant))[0] == 0
    assert run(*train(folder, "a", "--steps", 4, *constant))[0] == 0
    assert run(*train(folder, "a", "--steps", 8, *constant, "--resume"))[0] == 0
    one, other = ((folder / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("a", "long"))
    assert one == other
    assert run(*train(folder, "b", "--steps", 4))[0] == 0
    status, _, error = run(*train(folder, "b", "--steps", 8, "--resume"))
    assert status == 2 and "planned for 4 steps" in error and "constant schedule" in error


def test_sigterm_keeps_the_state(folder: Path) -> None:
    words = [str(word) for word in train(folder, "a", "--steps", 3000, "--save-every", 20)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "tlora_ref", *words], stderr=subprocess.PIPE, env=environment)
    state = folder / "a" / "training_state.safetensors"
    while not state.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and b"stopped by SIGTERM: the state is in" in error and b"--resume" in error


def test_adapters_by_step_are_kept_and_a_run_goes_back_to_one(folder: Path, run: Run) -> None:
    words = ("--steps", 6, "--save-every", 2, "--keep-last", 2, "--keep", "last")
    assert run(*train(folder, "a", *words))[0] == 0
    kept = folder / "a" / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["step-4", "step-6"]
    scores = []
    for step in (4, 6):
        status, said, _ = run(
            *("eval", folder / "model", "--data", folder / "data", "--adapter", kept / f"step-{step}", "--json")
        )
        assert status == 0
        scores.append(json.loads(said)["loss"])
    assert scores[0] != scores[1]
    end = (folder / "a" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert (kept / "step-6" / "adapter" / "adapter_model.safetensors").read_bytes() == end
    status, _, error = run(*train(folder, "a", *words, "--resume", "--from-step", 2))
    assert status == 2 and "step 2 was not kept. The steps there are: 4, 6" in error
    status, _, error = run(*train(folder, "b", *words, "--from-step", 2))
    assert status == 2 and "--resume" in error and not (folder / "b").exists()
    rows = (folder / "a" / "metrics.csv").read_text().splitlines()
    assert run(*train(folder, "a", *words, "--resume", "--from-step", 4))[0] == 0
    assert (folder / "a" / "adapter" / "adapter_model.safetensors").read_bytes() == end
    assert (folder / "a" / "metrics.csv").read_text().splitlines() == rows and len(rows) == 7
    assert run(*train(folder, "a", "--steps", 2, "--overwrite"))[0] == 0
    assert not kept.exists()
