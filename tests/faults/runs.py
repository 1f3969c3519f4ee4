"""Subjects of runs: training that goes on, studies and their results, prompts, what a user previews."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

import tlora_ref as tr
from tests.faults.subject import Subject, command, words
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.data import encode_prompt, load_prompts
from tlora_ref.errors import TLoRAError
from tlora_ref.oracle.kit.vectors import compare_vectors
from tlora_ref.study import read_results, tables
from tlora_ref.study.claims import judge, load_claims

PROMPTS: list[dict[str, Any]] = [
    {"prompt": "w1 w2", "id": 7},
    {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]},
    {"conversations": [{"from": "human", "value": "w1"}]},
    {"instruction": "w3", "input": "w4"},
]
VECTORS = Path(__file__).parents[1] / "oracle" / "vectors" / "paper"
STEPS = ("--steps", "2", "--batch-size", "2", "--rank", "2", "--samples", "2")


def stopped(folder: Path) -> None:
    """A run of two steps, all of its folder."""
    tr.save_model(tiny_llama(dtype="float32"), folder / "model")
    words(folder / "model")
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, tiny_samples(6))))
    command("train", "{folder}/model", "--data", "{folder}/data.jsonl", "--out", "{folder}/run", *STEPS)(folder)


def go_on(folder: Path) -> None:
    """Two more steps from what the run left."""
    more = [*STEPS[:1], "4", *STEPS[2:]]
    paths = ("--data", "{folder}/data.jsonl", "--out", "{folder}/run")
    command("train", "{folder}/model", *paths, *more, "--resume")(folder)


def state(folder: Path) -> None:
    """The state of two steps of training, with an evaluation."""
    _train(folder, steps=2)


def _train(folder: Path, **more: Any) -> None:
    model, samples = tiny_llama(), tiny_samples(4)
    stats = tr.calibrate(model, samples[:1])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, stats.shapes, 2, 4.0))
    tr.train(model, adapter, samples, valid=samples[:1], eval_every=1, batch_size=2, out=folder, **more)


def study(folder: Path) -> None:
    """A study's declaration beside the model and the rows that it names."""
    tr.save_model(tiny_llama(), folder / "model")
    words(folder / "model")
    (folder / "data").mkdir()
    for split in ("train", "valid", "test"):
        (folder / "data" / f"{split}.jsonl").write_text(json.dumps({"q": "w1", "a": "w2"}))
    rows = {"data": "data", "template": "plain", "max_length": 16, "fields": {"prompt": "q", "completion": "a"}}
    declared = {
        **{"title": "a study", "models": {"tiny": "model"}, "tasks": {"words": rows}, "variants": ["LoRA", "TLoRA"]},
        **{"equal": ["rank", "parameters"], "ranks": [2, 4], "samples": [1], "learning_rates": [0.01, "1e-3"]},
        **{"seeds": [1, 2], "steps": 2, "batch_size": 1, "schedule": "linear", "dtype": "float64"},
        "paper": {"table": "Table 1", "measure": "accuracy", "values": {"LoRA": 1.0, "TLoRA": 2.0}},
    }
    variant = {"init": "wc-svd", "trained": "B", "adapt_rank": True, "adapt_scale": False}
    declared["variants"] = {"LoRA": None, "TLoRA": None, "other": variant}
    (folder / "study.yaml").write_text(yaml.safe_dump(declared))


def use_study(folder: Path) -> None:
    declared = tr.load_study(folder / "study.yaml")
    assert len(declared.cells()) < 10**6
    json.dumps(declared.to_dict())


def results(folder: Path) -> None:
    """The results of a study of two variants, two rates and three seeds; and claims about them."""
    place = {"model": "tiny", "task": "words", "calibrated_on": "words", "equal": "rank", "rank": 2, "samples": 1}
    head = {
        "name": "s",
        "title": "t",
        "baseline": "LoRA",
        "steps": 2,
        "batch_size": 2,
        "seeds": [1, 2, 3],
        "learning_rates": [0.01, 0.1],
    }
    head["paper"] = {"table": "Table 1", "measure": "accuracy", "values": {"LoRA": 1.0, "TLoRA": 2.0}}
    lines: list[dict[str, Any]] = [{"study": head, "cells": 12}]
    for variant in ("LoRA", "TLoRA"):
        for lr, seed in ((lr, seed) for lr in (0.01, 0.1) for seed in (1, 2, 3)):
            measured = {"valid_loss": lr + seed, "test_loss": 2.0 * seed, "phi": 0.5, "r_init": 2, "trained": 96}
            cost = {"seconds": {"train": 1.0}, "peak_bytes": 1000, "gradient_norm": {"first": 1.0}}
            key = f"{variant}{lr}{seed}"
            lines.append({"key": key, "variant": variant, **place, "lr": lr, "seed": seed, **measured, **cost})
    (folder / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pair = {"less": {"variant": "TLoRA"}, "than": {"variant": "LoRA"}}
    claims = [
        {"claim": "better", "where": "Table 1", "study": "s", **pair},
        {
            "claim": "phi",
            "where": "Table 2",
            "study": "s",
            "measure": "phi",
            "of": {"variant": "TLoRA"},
            "paper": "0.5",
        },
        {"claim": "at scale", "where": "Table 3", "larger": "a 7B model"},
    ]
    (folder / "claims.yaml").write_text(yaml.safe_dump(claims))


def use_results(folder: Path) -> None:
    found = read_results(folder)
    for one in found:
        tables.quality(one), tables.cost(one), tables.heading(one), tables.diverged(one), tables.paper_said(one)
        json.dumps(tables.to_dict(one))
    judge(load_claims(folder / "claims.yaml"), found)


def prompts(folder: Path) -> None:
    """Prompts in every form of file."""
    words(folder)
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    (folder / "prompts.txt").write_text("w1 w2\nw3\n")
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "note"], ["w1 w2", "w3"]])


def use_prompts(folder: Path) -> None:
    tokenizer = tr.load_tokenizer(folder)
    for file in sorted(folder.glob("prompts.*")):
        try:
            for _, row in load_prompts(file):
                encode_prompt(row, tokenizer)
        except TLoRAError:  # the others are read all the same
            continue


def with_config(folder: Path) -> None:
    """Flags from a file, for a command that has many."""
    tr.save_model(tiny_llama(), folder / "model")
    words(folder / "model")
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, [{"q": "w1", "a": "w2"}] * 3)))
    flags = {"field": {"prompt": "q", "completion": "a"}, "template": "plain", "max-length": 16, "batch-size": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump({**flags, "seed": 1}))


def vectors(folder: Path) -> None:
    """The kit's vectors, and answers that are the golden ones."""
    from safetensors.numpy import load_file, save_file

    for file in VECTORS.iterdir():
        shutil.copy(file, folder)
    golden = load_file(folder / "vectors.safetensors")
    outputs = {name.replace("/out/", "/"): x for name, x in golden.items() if "/out/" in name}
    (folder / "answers").mkdir()
    save_file(outputs, folder / "answers" / "outputs.safetensors")
    said = {"format": "tlora_ref.outputs", "version": 1, "dtype": "float64", "refused": []}
    (folder / "answers" / "outputs.json").write_text(json.dumps(said))


def subjects() -> dict[str, Subject]:
    """By name."""
    preview = ("preview", "{folder}/model", "--data", "{folder}/data.jsonl")
    return {
        "run-report": Subject(stopped, command("report", "{folder}/run"), ("run/*", "run/adapter/*"), weight=2),
        "run-resume": Subject(stopped, go_on, ("run/*", "run/*/*"), weight=2),
        "state": Subject(state, lambda f: _train(f, steps=4, resume=True), ("*.safetensors", "*.jsonl"), weight=4),
        "study": Subject(study, use_study, ("study.yaml",), weight=10, anywhere=True),
        "results": Subject(results, use_results, weight=10),
        "prompts": Subject(prompts, use_prompts, ("prompts.*",), weight=6),
        "preview": Subject(with_config, command(*preview, "--config", "{folder}/run.yaml"), ("*.yaml", "*.jsonl")),
        "vectors": Subject(
            vectors, lambda f: compare_vectors(f, f / "answers"), ("*.json", "answers/*", "*.safetensors")
        ),
    }
