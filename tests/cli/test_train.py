"""What a run keeps, how it is resumed, and what is refused before any work."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.tiny import tiny_llama, tiny_samples


def train(folder: Path, out: str, *more: object) -> list[object]:
    """A short training command."""
    common = ["--samples", 2, "--rank", 3, "--batch-size", 4, "--lr", 0.02]
    return ["train", folder / "model", "--data", folder / "data", "--out", folder / out, *common, *more]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_json_is_all_there_is_on_standard_output(folder: Path, run: Run) -> None:
    status, said, _ = run(*train(folder, "a", "--steps", 4, "--eval-every", 2, "--dtype", "float64", "--json"))
    found = json.loads(said)
    assert status == 0 and found["steps"] == 4 and len(found["history"]) == 4
    assert [("valid_loss" in entry) for entry in found["history"]] == [False, True, False, True]
    assert found["valid_loss_after"] < found["valid_loss_before"]
    base = tr.load_model(folder / "model")
    held = [json.loads(line) for line in (folder / "data" / "valid.jsonl").read_text().splitlines()]
    assert found["valid_loss_before"] == pytest.approx(tr.evaluate(base, held).loss, rel=1e-12)
    adapter = tr.load_peft(folder / "a" / "adapter")
    assert found["trainable_parameters"] == sum(B.size for B in adapter.B.values())
    assert [json.loads(line) for line in (folder / "a" / "history.jsonl").read_text().splitlines()] == found["history"]


def test_one_line_a_step_where_there_is_no_terminal(folder: Path, run: Run) -> None:
    _, said, _ = run(*train(folder, "a", "--steps", 4))
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step ")] == ["1", "2", "3", "4"]
    _, said, _ = run(*train(folder, "b", "--steps", 4, "--log-every", 3, "--eval-every", 4))
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step ")] == ["1", "3", "4"]


def test_the_manifest_says_what_decided_the_run(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 2, "--profile", "released"))[0] == 0
    manifest = json.loads((folder / "a" / "manifest.json").read_text())
    assert manifest["command"][:2] == ["tlora-ref", "train"] and manifest["command"][-1] == "released"
    assert manifest["plan"]["switches"]["centre"] and manifest["settings"]["trainable"] == "AB"
    assert manifest["settings"]["eps"] == 1e-8 and "warm-up" in manifest["conventions"]
    assert len(manifest["data"]["sha256"]) == 64 and len(manifest["calibration"]) == 2
    assert {"numpy", "python", "blas", "cores", "seed", "dtype"} <= set(manifest)


def test_training_goes_on_from_a_given_adapter(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 3))[0] == 0
    given = ("--adapter", folder / "a" / "adapter")
    status, _, error = run(*train(folder, "b", "--steps", 2, *given))
    assert status == 2 and "--rank, --samples would do nothing" in error and not (folder / "b").exists()
    status, said, _ = run(*train(folder, "b")[:6], "--batch-size", 4, "--steps", 2, *given, "--json")
    assert "rank" not in yaml.safe_load((folder / "b" / "config.yaml").read_text())
    model = tr.load_model(folder / "model")
    model.attach(tr.load_peft(folder / "a" / "adapter"))
    held = [json.loads(line) for line in (folder / "data" / "valid.jsonl").read_text().splitlines()]
    assert status == 0 and json.loads(said)["valid_loss_before"] == pytest.approx(tr.evaluate(model, held).loss)


def test_a_resumed_run_has_the_flags_and_keeps_the_record_of_the_first(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 2))[0] == 0
    before = contents(folder / "a")
    for flags, named in ((("--rank", 5), "--rank 3, not 5"), (("--dtype", "float64"), "--dtype float32, not float64")):
        status, _, error = run(*train(folder, "a", "--steps", 2, "--resume", *flags))
        assert status == 2 and named in error and "config.yaml" in error
        assert contents(folder / "a") == before
    status, _, error = run(*train(folder, "a", "--steps", 2, "--resume", "--overwrite"))
    assert status == 2 and "give one of the two" in error
    status, _, error = run(*train(folder, "never", "--steps", 2, "--resume"))
    assert status == 2 and "no run to resume" in error and not (folder / "never").exists()
    assert run(*train(folder, "a", "--steps", 2, "--resume"))[0] == 0
    assert contents(folder / "a") == before


def test_overwriting_leaves_nothing_of_the_earlier_run(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 3))[0] == 0
    assert run(*train(folder, "a", "--steps", 2, "--overwrite"))[0] == 0
    assert len((folder / "a" / "history.jsonl").read_text().splitlines()) == 2


def test_a_damaged_state_is_refused_and_kept(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 3))[0] == 0
    (folder / "a" / "training_state.safetensors").write_bytes(b"damaged")
    before = contents(folder)
    status, _, error = run(*train(folder, "a", "--steps", 3, "--resume"))
    assert status == 2 and "training_state.safetensors: damaged" in error and contents(folder) == before


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--init", "svd"), "init is 'svd', expected one of wc-svd"),
        (("--profile", "published"), 'profile "published" is unknown'),
        (("--switch", "center=true"), "unknown switch(es) center"),
        (("--switch", "centre"), "expected a name, an equals sign and a value"),
        (("--switch", "centre=perhaps"), "switch centre is 'perhaps', expected true or false"),
        (("--scale-rule", "alpha"), "uniform_scale is 'alpha'"),
        (("--rank-floor", -1), "rank_floor is -1"),
        (("--alpha", 0), "alpha 0"),
        (("--trainable", "all"), "--trainable all: expected B or AB"),
        (("--schedule", "step"), "schedule is 'step'"),
        (("--lr", "nan"), "lr is nan"),
        (("--template", "gsm"), 'template "gsm" is unknown'),
        (("--field", "question"), "expected a name, an equals sign and a value"),
        (("--dtype", "float8"), 'dtype "float8" is not supported'),
        (("--device", "tpu"), 'device "tpu" is unknown'),
        (("--samples", 9), "9 samples were asked for, but there are 8"),
    ],
)
def test_bad_flags_are_refused_and_nothing_is_written(
    folder: Path, run: Run, flags: tuple[Any, ...], match: str
) -> None:
    before = contents(folder)
    status, said, error = run(*train(folder, "a", "--steps", 2, *flags))
    assert status == 2 and match in error and "step" not in said
    assert contents(folder) == before and not (folder / "a").exists()


def test_no_command_writes_over_what_it_reads(folder: Path, run: Run) -> None:
    assert run(*train(folder, "a", "--steps", 2))[0] == 0
    before, model, data = contents(folder), folder / "model", folder / "data"
    adapter = folder / "a" / "adapter"
    for command in (
        ("init", model, "--data", data, "--out", model),
        ("init", model, "--data", data, "--out", data),
        ("init", model, "--data", data / "train.jsonl", "--out", data),
        ("train", model, "--data", data, "--out", model),
        ("train", model, "--data", data, "--out", folder / "a", "--adapter", adapter),
        ("merge", model, "--adapter", adapter, "--out", model),
        ("merge", model, "--adapter", adapter, "--out", adapter),
    ):
        status, _, error = run(*command, "--overwrite")
        assert status == 2 and "is there. Choose another folder" in error, command
        assert contents(folder) == before, command


def test_what_the_machine_lacks_is_one_clear_message(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("tlora_ref.cli.train.tr.train", full)
    status, _, error = run(*train(folder, "a", "--steps", 2))
    assert status == 2 and error.startswith("error: somewhere: No space left on device")

    def large(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 90 GiB")

    monkeypatch.setattr("tlora_ref.pipeline.adapters.load_model", large)
    status, _, error = run(*train(folder, "b", "--steps", 2))
    assert status == 2 and "not enough memory" in error and "--dtype float32" in error


def test_ctrl_c_before_training_says_that_there_is_nothing_to_resume(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tlora_ref.pipeline.adapters.calibrate", stopped)
    before = contents(folder)
    status, _, error = run(*train(folder, "a", "--steps", 2))
    assert status == 130 and "nothing to resume" in error
    status, _, error = run("init", folder / "model", "--data", folder / "data", "--out", folder / "b", "--samples", 2)
    assert status == 130 and "nothing was written" in error
    assert contents(folder) == before


def test_ctrl_c_keeps_the_state_and_the_command_it_names_ends_bit_identical(folder: Path) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    python = [sys.executable, "-m", "tlora_ref"]

    def words(out: str) -> list[str]:
        return [
            str(word)
            for word in train(folder, out, "--steps", 1500, "--save-every", 20, "--keep", "last", "--overwrite")
        ]

    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are told to ignore it
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    stopped = subprocess.Popen([*python, *words("stopped")], **pipes, env=environment, preexec_fn=heeded)
    state = folder / "stopped" / "training_state.safetensors"
    for _ in range(600):
        if state.exists():
            break
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == 130 and "Traceback" not in error
    assert state.exists() and not (folder / "stopped" / "adapter").exists()
    recorded = (folder / "stopped" / "manifest.json").read_bytes()

    hint = shlex.split(error.splitlines()[-1])
    assert hint[0] == "tlora-ref" and hint[-1] == "--resume" and "--overwrite" not in hint
    for command in (hint[1:], words("whole")):
        subprocess.run([*python, *command], check=True, capture_output=True, env=environment)
    ends = [tr.load_peft(folder / name / "adapter") for name in ("stopped", "whole")]
    assert all(np.array_equal(ends[0].B[m], ends[1].B[m]) for m in ends[1].B) and ends[0].modules == ends[1].modules
    files = [(folder / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert files[0] == files[1]
    assert (folder / "stopped" / "manifest.json").read_bytes() == recorded
    histories = [(folder / name / "history.jsonl").read_text() for name in ("stopped", "whole")]
    assert histories[0] == histories[1] and len(histories[0].splitlines()) == 1500


def test_the_model_has_the_name_that_is_given(folder: Path, run: Run) -> None:
    named = ("--base-model-id", "someone/their-model")
    assert run(*train(folder, "a", "--steps", 2, *named))[0] == 0
    assert (
        run("init", folder / "model", "--data", folder / "data", "--samples", 2, "--out", folder / "b", *named)[0] == 0
    )
    assert run(*train(folder, "c", "--steps", 2))[0] == 0
    places = ("a/adapter", "a/initial_adapter", "b", "c/adapter")
    names = [json.loads((folder / p / "adapter_config.json").read_text())["base_model_name_or_path"] for p in places]
    assert names == ["someone/their-model"] * 3 + [str(folder / "model")]


def test_many_modules_are_told_by_kind_unless_all_are_asked_for(tmp_path: Path, run: Run) -> None:
    tr.save_model(tiny_llama(num_hidden_layers=6), tmp_path / "model")
    samples = tiny_samples(4)
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, samples)))
    common = ("init", tmp_path / "model", "--data", tmp_path / "d.jsonl", "--samples", 3, "--rank", 2)
    short = run(*common, "--out", tmp_path / "a")[1]
    whole = run(*common, "--out", tmp_path / "b", "--full")[1]
    plan = tr.load_peft(tmp_path / "b").plan
    assert plan is not None and all(f"  {module} " in whole for module in plan.rank) and "kind" not in whole
    assert "model.layers.5.mlp.up_proj" not in short and short.splitlines()[-2] == whole.splitlines()[-2]
    ranks = [r for module, r in plan.rank.items() if module.endswith("v_proj")]
    line = next(line for line in short.splitlines() if line.split()[0] == "v_proj")
    assert line.split()[1] == "6" and f" {min(ranks)} to {max(ranks)} " in line


def test_the_time_left_and_the_time_taken_are_told(folder: Path, run: Run) -> None:
    said = run(*train(folder, "a", "--steps", 3))[1].splitlines()
    steps = [line for line in said if line.startswith("step ")]
    assert [line.endswith(" left") for line in steps] == [True, True, False]
    assert any(line.startswith("trained in ") for line in said)
