"""`eval`, `generate` and `merge`: a model at work."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.tiny import tiny_llama


@pytest.fixture
def trained(folder: Path, run: Run) -> Path:
    common = ("--samples", 2, "--rank", 3, "--batch-size", 4, "--lr", 0.02, "--steps", 3)
    assert run("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *common)[0] == 0
    return folder


def test_eval_counts_what_it_left_out(folder: Path, run: Run) -> None:
    rows = [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"input_ids": [1, 2, 3], "labels": [1, -100, -100]},  # the first label is never predicted
        {"input_ids": list(range(9)), "labels": list(range(9))},
    ]
    (folder / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    status, said, error = run("eval", folder / "model", "--data", folder / "mixed.jsonl", "--max-length", 8, "--json")
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


def test_generate_with_an_adapter_and_samples_by_seed(trained: Path, run: Run) -> None:
    adapter = trained / "run" / "adapter"
    common = ("generate", trained / "model", "--prompt", "w3 w4", "--max-new-tokens", 6)
    found = json.loads(run(*common, "--adapter", adapter, "--json")[1])
    model = tr.load_model(trained / "model")
    model.attach(tr.load_peft(adapter))
    assert found["tokens"] == model.generate([3, 4], max_new_tokens=6)[2:].tolist()
    drawn = [run(*common, "--temperature", 2.0, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    _, _, error = run(*common, "--max-new-tokens", 70)
    assert "beyond the model's context 64" in error


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--prompt", ""), "--prompt is empty"),
        (("--prompt", "w1", "--top-p", 0), "top_p 0"),
        (("--prompt", "w1", "--temperature", -1), "--temperature"),
        (("--prompt", "w1", "--chat"), "no chat template"),
        (("--prompt", "w1", "--adapter", "nowhere"), "nowhere: there is no such folder"),
    ],
)
def test_generate_refuses(folder: Path, run: Run, flags: tuple[object, ...], match: str) -> None:
    status, said, error = run("generate", folder / "model", *flags)
    assert status == 2 and match in error and said == ""


def test_the_tokenizers_chat_template(folder: Path, run: Run) -> None:
    config = {"chat_template": "{% for m in messages %}{{ m.content }} w9 {% endfor %}"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = json.loads(
        run("generate", folder / "model", "--prompt", "w3", "--chat", "--max-new-tokens", 3, "--json")[1]
    )
    assert found["tokens"] == tr.load_model(folder / "model").generate([3, 9], max_new_tokens=3)[2:].tolist()


def test_a_16_bit_merge_says_what_it_rounds_away(trained: Path, run: Run) -> None:
    common = ("merge", trained / "model", "--adapter", trained / "run" / "adapter")
    lost = {}
    for dtype in ("float32", "float16", "bfloat16"):
        status, said, _ = run(*common, "--out", trained / dtype, "--dtype-out", dtype, "--json")
        found = json.loads(said)
        assert status == 0 and set(found["rounded_away"]) == set(tr.load_peft(trained / "run" / "adapter").modules)
        lost[dtype] = found["rounded_away_mean"]
        assert tr.load_model(trained / dtype).config == tr.load_model(trained / "model").config
    assert lost["float32"] < lost["float16"] < lost["bfloat16"]
    assert (trained / "bfloat16" / "config.yaml").is_file()
    status, _, error = run(*common, "--out", trained / "x", "--dtype-out", "int8")
    assert status == 2 and '"int8" cannot be written' in error and not (trained / "x").exists()


def test_an_adapter_of_another_model_is_refused(trained: Path, run: Run) -> None:
    tr.save_model(tiny_llama(intermediate_size=20), trained / "other")
    adapter = trained / "run" / "adapter"
    for command in (
        ("merge", trained / "other", "--adapter", adapter, "--out", trained / "x"),
        ("eval", trained / "other", "--adapter", adapter, "--data", trained / "data"),
    ):
        status, _, error = run(*command)
        assert status == 2 and "Was it made for another model?" in error and not (trained / "x").exists()
