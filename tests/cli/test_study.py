"""`study` and what `report` says of its folder, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

STUDY = """
models: {tiny: model}
tasks: {words: data}
variants: [LoRA, TLoRA]
ranks: [2]
samples: [2]
learning_rates: [1e-2]
seeds: [1, 2]
steps: 2
batch_size: 2
"""


def test_a_study_and_its_report(folder: Path, run: Run) -> None:
    file, out = folder / "two.yaml", folder / "results"
    file.write_text(STUDY, encoding="utf-8")
    status, said, _ = run("study", file, "--dry-run")
    assert status == 0 and "4 cells, 4 runs to make" in said and said.count("to run") == 4 and not out.exists()
    assert "by a part of a training step" in said
    status, said, _ = run("study", file, "--out", out)
    assert status == 0 and "4 of 4 runs" in said and "two: 4 of 4" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip().startswith(("LoRA", "TLoRA"))}
    losses = [json.loads(line)["test_loss"] for line in (out / "two.jsonl").read_text().splitlines()[2::2]]
    assert len(losses) == 2 and " to " in said and set(rows) == {"LoRA", "TLoRA"}
    status, again, _ = run("report", out)
    assert status == 0 and again.splitlines()[0] in said and f"{sum(losses) / 2:.4f}" in again
    status, values, _ = run("report", out, "--json")
    outcome = json.loads(values)["studies"][0]["outcomes"][1]
    assert status == 0 and outcome["variant"] == "TLoRA" and abs(outcome["test_loss"] - sum(losses) / 2) < 1e-12
    assert run("study", file, "--dry-run", "--out", out)[1].count("there") >= 4


def test_several_studies_share_runs_and_their_costs_sum(folder: Path, run: Run) -> None:
    first, second, out = folder / "two.yaml", folder / "more.yaml", folder / "results"
    first.write_text(STUDY, encoding="utf-8")
    second.write_text(STUDY.replace("[1, 2]", "[2, 3]"), encoding="utf-8")
    status, said, _ = run("study", first, second, "--dry-run")
    assert status == 0 and "all: 6 runs" in said and said.count("same run as above") == 2
    cost = json.loads(run("study", first, second, "--dry-run", "--json")[1])
    assert [(part["study"], part["runs"]) for part in cost["studies"]] == [("two", 4), ("more", 2)]
    assert cost["seconds"] == sum(part["seconds"] for part in cost["studies"]) > 0 and cost["runs"] == 6
    status, said, _ = run("study", first, second, "--out", out)
    assert status == 0 and "two: a study; 4 of 4 runs" in said and "more: a study; 4 of 4 runs" in said
    status, _, said = run("study", first, first, "--out", out)
    assert status == 2 and 'two studies are named "two"' in said


def test_bad_input_gets_one_clear_line(folder: Path, run: Run) -> None:
    file = folder / "two.yaml"
    file.write_text(STUDY + "lr: 3\n", encoding="utf-8")
    status, _, said = run("study", file, "--out", folder / "results")
    assert status == 2 and 'unknown key "lr"' in said and "learning_rates" in said
    file.write_text(STUDY, encoding="utf-8")
    status, _, said = run("study", file)
    assert status == 2 and "--out is missing" in said
    status, _, said = run("study", folder / "none.yaml", "--out", folder / "results")
    assert status == 2 and "cannot be read" in said and not (folder / "results").exists()
