"""What runs measure beside losses, by hand: calibration elsewhere, all weights, modules, a fresh head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.test_families import bare
from tests.study.conftest import declare
from tests.tiny import tiny_samples
from tlora_ref.study import read_results
from tlora_ref.study.modules import agreement, by_group, has_modules
from tlora_ref.study.results import Results


def rows(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """Another task in `folder/name`; its training samples."""
    (folder / name).mkdir()
    samples = tiny_samples(9, seed=seed)
    for split in ("train", "valid", "test"):
        (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, samples)), encoding="utf-8")
    return samples


def drawn(samples: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [samples[i] for i in sorted(np.random.default_rng(seed).choice(len(samples), size=6, replace=False))]


def top(matrix: np.ndarray, r: int) -> np.ndarray:
    """Its r top right singular vectors as columns, by the eigenvectors of the Gram matrix."""
    return np.linalg.eigh(matrix.T @ matrix)[1][:, -r:]


def root(C: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(C)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def overlap(U: np.ndarray, V: np.ndarray) -> float:
    return float(np.linalg.norm(U.T @ V) ** 2 / U.shape[1])


def test_calibrated_on_another_task(place: Path) -> None:
    others = rows(place, "other", seed=50)
    own = [json.loads(line) for line in (place / "data" / "train.jsonl").read_text().splitlines()]
    tasks = {"words": "data", "other": "other"}
    file = declare(place, tasks=tasks, variants=["TLoRA"], calibrated_on=["own", "other"], dtype="float64")
    found = tr.run_study(tr.load_study(file), place / "out")
    (run,) = [r for r in found.runs if r["task"] == "words" and r["calibrated_on"] == "other"]

    model = tr.load_model(place / "model", dtype="float64")
    stats, again = (tr.calibrate(model, drawn(*of)) for of in ((others, 1), (own, 1001)))
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 2.0))
    W = {m: np.asarray(model.weight(m)) for m in stats.shapes}
    phis = [overlap(top(W[m] @ stats.covariance[m], 2), top(W[m] @ again.covariance[m], 2)) for m in W]
    assert run["phi_draw"] == pytest.approx(np.mean(phis), abs=1e-6)
    tr.train(model, adapter, own, steps=2, batch_size=2, lr=1e-2, seed=1)
    held = [json.loads(line) for line in (place / "data" / "test.jsonl").read_text().splitlines()]
    assert run["test_loss"] == tr.evaluate(model, held, batch_size=32).loss
    twins = [r for r in found.runs if r["task"] == "other"]  # "own" and its name are one run
    assert twins[0]["key"] == twins[1]["key"] and len(found.runs) == 4


def test_all_weights_and_the_directions_of_their_update(place: Path) -> None:
    file = declare(place, variants=["LoRA", "all weights"], learning_rates=["1e-3"], dtype="float64")
    run = tr.run_study(tr.load_study(file), place / "out").runs[1]
    own = [json.loads(line) for line in (place / "data" / "train.jsonl").read_text().splitlines()]
    before, after = (tr.load_model(place / "model", dtype="float64") for _ in range(2))
    stats = tr.calibrate(before, drawn(own, 1))
    tr.train(after, None, own, steps=2, batch_size=2, lr=1e-3, seed=1, trainable="all")
    held = [json.loads(line) for line in (place / "data" / "test.jsonl").read_text().splitlines()]
    assert run["test_loss"] == tr.evaluate(after, held, batch_size=32).loss
    assert run["trained"] == sum(x.size for x in before.tensors.values())
    phis = []
    for module in (m for m in stats.shapes if m.endswith("q_proj")):
        W, C = np.asarray(before.weight(module)), root(stats.covariance[module])
        phis.append(overlap(top(W @ C, 2), top((np.asarray(after.weight(module)) - W) @ C, 2)))
    assert run["phi_update"]["q_proj"] == pytest.approx(np.mean(phis), abs=1e-6)
    assert set(run["phi_update"]) == {m.rpartition(".")[2] for m in stats.shapes}


def test_every_module_s_sensitivity_and_rank(place: Path) -> None:
    rows(place, "other", seed=50)
    tasks = {"other": "other", "words": "data"}  # in the order that YAML is written in
    grid = {"tasks": tasks, "variants": ["TLoRA"], "seeds": [1, 2], "per_module": True}
    found = tr.run_study(tr.load_study(declare(place, **grid)), place / "out")
    assert has_modules(found) and read_results(place / "out") == [found]
    columns, table = by_group(found)
    assert columns == ["modules", "other: sensitivity", "other: rank", "words: sensitivity", "words: rank"]
    assert [row[0] for row in table][-2:] == ["layer 0", "layer 1"] and len(table) == 7 + 2
    its = [run for run in found.runs if run["task"] == "words"]
    q = [m for m in its[0]["sensitivity"] if m.endswith("q_proj")]
    by_hand = np.mean([run["sensitivity"][m] / np.mean(list(run["sensitivity"].values())) for run in its for m in q])
    (row,) = [row for row in table if row[0] == "q_proj"]
    assert row[3] == f"{by_hand:.2f}" and row[4] == f"{np.mean([r['rank_by_module'][m] for r in its for m in q]):.2f}"


def test_agreement_is_spearman_s_within_and_across_tasks() -> None:
    def run(task: str, *S: float) -> dict[str, Any]:
        return {"task": task, "sensitivity": {f"layers.{i}.a": value for i, value in enumerate(S)}}

    runs = [run("a", 1, 2, 3, 4), run("a", 1, 2, 4, 3), run("b", 40, 30, 20, 10)]
    # 1 - 6 sum d^2 / (n (n^2 - 1)): d^2 = 2 within a; 20 and 18 between a and b
    assert agreement(Results({}, runs, 3)) == pytest.approx((0.8, (-1.0 - 0.8) / 2))
    assert agreement(Results({}, runs[:2], 2))[1] is None


def test_a_bare_encoder_gets_a_head_by_the_run_s_seed(tmp_path: Path) -> None:
    bare(tmp_path / "model", "bert", "BertModel")
    (tmp_path / "data").mkdir()
    for split in ("train", "valid", "test"):
        lines = [json.dumps({"prompt": f"w{i} w{i + 3}", "completion": ("no", "yes")[i % 2]}) for i in range(5, 12)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tasks = {"mood": {"data": "data", "labels": ["no", "yes"]}}
    found = tr.run_study(tr.load_study(declare(tmp_path, tasks=tasks, seeds=[1, 2])), tmp_path / "out")
    model = tr.load_model(tmp_path / "model", dtype="float32", labels=("no", "yes"), seed=2)
    head = sum(model.tensors[name].size for name in model.fresh)
    adapter = tr.initialize(model, None, tr.allocate(dict.fromkeys(model.shapes(), 1.0), model.shapes(), 2, 2.0,
                            adapt_rank=False, adapt_scale=False), init="random", seed=2)  # fmt: skip
    source = tr.DataSource(tmp_path / "data")
    samples, _ = source.encoded(source.rows("train"), model, tr.load_tokenizer(tmp_path / "model"))
    also = tuple(sorted(model.fresh))
    tr.train(model, adapter, samples, steps=2, batch_size=2, lr=1e-2, seed=2, trainable="AB", also=also)
    run = next(r for r in found.runs if r["seed"] == 2 and r["variant"] == "LoRA")
    assert run["test_loss"] == tr.evaluate(model, samples, batch_size=32).loss
    assert run["trained"] == head + sum(x.size for its in (adapter.A, adapter.B) for x in its.values()) and head
