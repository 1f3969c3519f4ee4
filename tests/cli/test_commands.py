"""The commands as a person runs them: what they print and write, and what they say to bad input."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.tiny import tiny_llama


def test_the_main_job_from_plan_to_merge(folder: Path, run: Run) -> None:
    model, out = folder / "model", folder / "run"
    status, said, _ = run("plan", model, "--rank", 4)
    assert status == 0 and "14 target modules" in said and "\x1b" not in said
    status, said, _ = run(
        "train", model, "--data", folder / "data", "--out", out, "--samples", 4, "--rank", 3, "--epochs", 5,
        "--batch-size", 4, "--lr", 0.05, "--dtype", "float64",
    )  # fmt: skip
    assert status == 0 and "held-out loss before" in said and "model.layers.1.mlp.down_proj" in said
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert len(history) == 10 and history[-1]["loss"] < history[0]["loss"] and "valid_loss" in history[-1]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["betas"] == [0.9, 0.999] and len(manifest["calibration"]) == 4
    assert yaml.safe_load((out / "config.yaml").read_text())["batch-size"] == 4
    status, said, _ = run(
        "eval", model, "--data", folder / "data", "--adapter", out / "adapter", "--dtype", "float64", "--json"
    )
    trained = json.loads(said)
    loaded = tr.load_model(model)
    loaded.attach(tr.load_peft(out / "adapter"))
    rows = [json.loads(line) for line in (folder / "data" / "test.jsonl").read_text().splitlines()]
    assert status == 0 and trained["loss"] == pytest.approx(tr.evaluate(loaded, rows).loss, rel=1e-12)
    status, said, _ = run("merge", model, "--adapter", out / "adapter", "--out", folder / "merged",
                          "--dtype-out", "float64")  # fmt: skip
    assert status == 0 and "14 modules merged" in said and (folder / "merged" / "tokenizer.json").is_file()
    merged = tr.load_model(folder / "merged")
    np.testing.assert_allclose(merged(**rows[0]).logits, loaded(**rows[0]).logits, rtol=1e-10, atol=1e-11)
    status, said, _ = run("generate", model, "--prompt", "w3 w4", "--max-new-tokens", 5, "--dtype", "float64")
    expected = tr.load_model(model).generate([3, 4], max_new_tokens=5)[2:]
    assert status == 0 and said.split() == [f"w{i}" for i in expected]


def test_text_rows_own_names_and_exact_matches(folder: Path, run: Run) -> None:
    status, said, _ = run(
        "eval", folder / "model", "--data", folder / "text.jsonl", "--field", "prompt=question",
        "--field", "completion=reply", "--generate", "--max-new-tokens", 2, "--json",
    )  # fmt: skip
    found = json.loads(said)
    assert status == 0 and found["rows"] == 6 and 0 <= found["exact"] <= 6


def test_A_is_trained_where_the_profile_does_not_freeze_it(folder: Path, run: Run) -> None:
    common = ("train", folder / "model", "--data", folder / "data", "--samples", 2, "--rank", 2, "--steps", 3)
    for flags, frozen in (((), True), (("--profile", "released"), False), (("--trainable", "AB"), False)):
        out = folder / f"run{len(list(folder.iterdir()))}"
        assert run(*common, "--out", out, *flags)[0] == 0
        before, after = tr.load_peft(out / "initial_adapter"), tr.load_peft(out / "adapter")
        assert all(np.array_equal(before.A[name], after.A[name]) == frozen for name in after.A)
        assert after.frozen_A == frozen


def spoil(folder: Path, how: str) -> str:
    """Damage the model or the data; returns what the message must name."""
    weights, data = folder / "model" / "model.safetensors", folder / "data" / "train.jsonl"
    index = folder / "model" / "model.safetensors.index.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-64])
        return "truncated"
    if how == "corrupt":
        weights.write_bytes(weights.read_bytes()[:8] + b"\xff" * 64 + weights.read_bytes()[72:])
        return "model.safetensors"
    if how == "huge header":
        weights.write_bytes(struct.pack("<Q", 2**40) + weights.read_bytes()[8:])
        return "model.safetensors"
    if how in ("missing shard", "shard outside"):
        name = "model-00001.safetensors" if how == "missing shard" else "../outside.safetensors"
        shutil.move(weights, folder / "outside.safetensors")
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}), encoding="utf-8")
        return name
    if how == "wrong shapes":
        config = json.loads((folder / "model" / "config.json").read_text())
        (folder / "model" / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
        return "mlp"
    if how == "not a number":
        broken = tiny_llama()
        broken.tensors["model.norm.weight"] = np.full(16, np.nan)
        shutil.rmtree(folder / "model")
        with pytest.raises(tr.TLoRAError):
            tr.save_model(broken, folder / "model")
        from safetensors.numpy import save_file

        tr.save_model(tiny_llama(), folder / "model")
        save_file({name: x.astype(np.float32) for name, x in broken.tensors.items()}, weights)
        return "model.norm.weight"
    if how == "unsupported model":
        (folder / "model" / "config.json").write_text('{"model_type": "mamba"}')
        return "mamba"
    data.write_text({"empty data": "", "no labels": '{"input_ids": [1, 2]}', "ids out of range": json.dumps(
        {"input_ids": [1, 99], "labels": [1, 99]})}[how], encoding="utf-8")  # fmt: skip
    return {"empty data": "holds no rows", "no labels": 'line 1: field "labels"', "ids out of range": "token id 99"}[
        how
    ]


SPOILT = (
    "truncated", "corrupt", "huge header", "missing shard", "shard outside", "wrong shapes", "not a number",
    "unsupported model", "empty data", "no labels", "ids out of range",
)  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_bad_input_gets_one_clear_message_and_leaves_nothing(folder: Path, run: Run, how: str) -> None:
    named = spoil(folder, how)
    before = sorted(path for path in folder.rglob("*"))
    out = folder / "out"
    status, said, error = run(
        "train", folder / "model", "--data", folder / "data", "--out", out, "--samples", 1, "--steps", 2
    )
    assert status == 2 and error.startswith("error: ") and named in error
    assert "Traceback" not in said + error
    assert sorted(path for path in folder.rglob("*")) == before


def test_outputs_that_exist_or_cannot_be_written_are_refused_before_any_work(folder: Path, run: Run) -> None:
    (folder / "file").write_text("in the way")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("keep")
    for out, match in (("file", "in the way"), ("full", "not empty"), ("file/below", "cannot be written")):
        for command in ("init", "train"):
            status, _, error = run(
                command, folder / "model", "--data", folder / "data", "--out", folder / out, "--samples", 1
            )
            assert status == 2 and match in error, (out, command, error)
    assert (folder / "full" / "mine.txt").read_text() == "keep" and len(list((folder / "full").iterdir())) == 1


def test_usage_errors_are_status_2(run: Run, folder: Path) -> None:
    assert run("plan")[0] == 2
    assert run("plan", folder / "model", "--no-such-flag")[0] == 2
    assert run("plan", folder / "absent")[0] == 2
    assert run("eval", folder / "model", "--data", folder / "data", "--dtype", "float8")[0] == 2
