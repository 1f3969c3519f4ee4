"""`eval`: the loss and the matches, counted by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.tiny import tiny_llama


def test_eval_counts_what_it_left_out(folder: Path, run: Run) -> None:
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"input_ids": [1, 2, 3], "labels": [1, -100, -100]},  # the first label is never predicted
        {"input_ids": list(range(9)), "labels": list(range(9))},
    ]
    (folder / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    status, said, error = run(
        "eval", folder / "model", "--data", folder / "mixed.jsonl", "--max-length", 8, "--dtype", "float64", "--json"
    )
    found = json.loads(said)
    assert status == 0 and (found["samples"], found["too_long"], found["unlabelled"], found["tokens"]) == (1, 1, 1, 2)
    logits = tr.load_model(folder / "model")([1, 2, 3]).logits[:2]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["loss"] == pytest.approx(-(math.log(p[0, 2]) + math.log(p[1, 3])) / 2, rel=1e-10)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert "mixed.jsonl, line 3" in error and "mixed.jsonl, line 2" in error


def test_exact_matches_are_counted_on_rows_that_were_used(folder: Path, run: Run) -> None:
    """Of three rows the first is what the model says itself, the second is not, the third is too long."""
    prompt = [3, 4]
    model = tr.load_model(folder / "model")
    own = model.generate(prompt, max_new_tokens=2)[2:].tolist()
    other = [(own[0] + 1) % 31, own[1]]
    rows = [{"prompt": "w3 w4", "completion": " ".join(f"w{i}" for i in ids)} for ids in (own, other)]
    rows.append({"prompt": "w5 " * 9, "completion": "w1"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = ("eval", folder / "model", "--data", folder / "rows.jsonl", "--generate", "--max-new-tokens", 2)
    status, said, _ = run(*command, "--max-length", 6, "--json")
    found = json.loads(said)
    assert status == 0 and (found["exact"], found["rows"], found["accuracy"]) == (1, 2, 0.5)
    status, said, _ = run(*command, "--max-length", 6)
    assert "exact match 1 of 2 (50.0%)" in said
    status, _, error = run("eval", folder / "model", "--data", folder / "data", "--generate")
    assert status == 2 and "--generate needs rows with a prompt" in error


def test_an_adapter_of_another_model_is_refused(trained: Path, run: Run) -> None:
    tr.save_model(tiny_llama(intermediate_size=20), trained / "other")
    adapter = trained / "run" / "adapter"
    for command in (
        ("merge", trained / "other", "--adapter", adapter, "--out", trained / "x"),
        ("eval", trained / "other", "--adapter", adapter, "--data", trained / "data"),
    ):
        status, _, error = run(*command)
        assert status == 2 and "Was it made for another model?" in error and not (trained / "x").exists()
