"""`report`: tables of a run, an adapter and a trace, with every number from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.families.make_tiny import tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import save_peft
from tlora_ref.checkpoint.peft_config import FACTS
from tlora_ref.oracle.traces import Trace
from tlora_ref.reports.tables import kinds

SAMPLES = tiny_samples(3, seed=4)


@pytest.fixture
def trained(folder: Path, run: Run) -> Path:
    words = ["--rank", 2, "--steps", 3, "--samples", 3, "--batch-size", 2, "--lr", 0.01]
    assert run("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *words)[0] == 0
    return folder / "run"


def test_a_run(trained: Path, run: Run) -> None:
    status, out, _ = run("report", trained)
    adapter = tr.load_peft(trained / "adapter")
    assert status == 0 and out.startswith(f"{trained}: a training run\n")
    assert adapter.plan is not None
    ranks = [r for m, r in adapter.plan.rank.items() if m.startswith("model.layers.1.")]
    assert next(line for line in out.splitlines() if "model.layers.1" in line).split()[1:] == list(map(str, ranks))
    assert f"ranks sum to {sum(adapter.plan.rank.values())} of 28" in out
    assert "q_proj  k_proj  v_proj  o_proj  gate_proj  up_proj  down_proj" in out
    entries = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert f"training loss: {entries[0]['loss']:.4f} at step 1, {entries[2]['loss']:.4f} at step 3" in out
    assert f"held-out loss: {entries[2]['valid_loss']:.4f} at step 3" in out


def test_the_numbers_of_an_adapter(trained: Path, run: Run) -> None:
    values = json.loads(run("report", trained / "adapter", "--json")[1])
    adapter = tr.load_peft(trained / "adapter")
    assert values["kind"] == "an adapter" and not values["losses"] and values["said"]["A"] == "frozen"
    for m in adapter.modules:
        W = tiny_llama().weight(m)
        update = float(np.linalg.norm(adapter.merged_weight(m, W) - W))
        assert values["modules"][m]["update"] == pytest.approx(update, rel=1e-9)
        assert values["modules"][m]["rank"] == len(adapter.A[m])
        assert values["modules"][m]["scale"] == adapter.scale[m]


def test_another_librarys_adapter_has_no_plan(trained: Path, run: Run) -> None:
    (trained / "adapter" / FACTS).unlink()
    status, out, _ = run("report", trained / "adapter")
    assert status == 0 and "profile" not in out and "mean update" in out and "frozen" not in out


def test_a_trace(tmp_path: Path, run: Run) -> None:
    tr.trace(tiny_llama(seed=3), SAMPLES, tmp_path / "t", profile="released", r_init=2, steps=2)
    values = json.loads(run("report", tmp_path / "t", "--json")[1])
    assert values["kind"] == "a trace" and values["said"]["profile"] == "released"
    assert [entry["step"] for entry in values["losses"]] == [1, 2]
    model, written = tiny_llama(seed=3), Trace(tmp_path / "t")
    for m in written.modules("merged"):
        moved = float(np.linalg.norm(written.get(f"merged/{m}") - model.weight(m)))
        assert values["modules"][m]["update"] == pytest.approx(moved, rel=1e-9)


def test_an_encoder_decoder_has_a_row_for_every_block(tmp_path: Path, run: Run) -> None:
    model = tiny_model("t5")
    stats = tr.calibrate(model, SAMPLES)
    save_peft(tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 2)), tmp_path / "a")
    out = run("report", tmp_path / "a")[1]
    assert "encoder.block.0" in out and "decoder.block.1" in out
    assert "SelfAttention.q" in out and "EncDecAttention.q" in out and "  wi  " in out


def test_short_names_are_told_apart() -> None:
    names = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.mlp.c_fc", "score"]
    expected = ["attn.c_proj", "mlp.c_proj", "c_fc", "score"]
    assert list(kinds(names).values()) == expected


@pytest.mark.parametrize("what", ["nothing", "empty", "history"])
def test_what_is_no_result_is_refused(trained: Path, run: Run, what: str) -> None:
    folder = {"nothing": trained / "none", "empty": trained.parent / "model", "history": trained}[what]
    (trained / "history.jsonl").write_text('{"step": 1}\n')
    status, out, error = run("report", folder)
    said = {
        "nothing": "there is no such folder",
        "empty": "a model's folder: `plan` says what it holds",
        "history": "history is damaged",
    }[what]
    assert status == 2 and not out and error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_page_beside_the_tables(trained: Path, run: Run) -> None:
    page = trained.parent / "page.html"
    status, out, _ = run("report", trained, "--html", page)
    assert status == 0 and f"wrote {page}" in out and "kept: the weights of step 3 of 3" in out
    assert "<h1>run: a training run</h1>" in page.read_text("utf-8")
    assert (
        run("report", trained, "--html", page)[0] == 2 and run("report", trained, "--html", page, "--overwrite")[0] == 0
    )
    status, out, error = run("report", trained, "--html", trained.parent / "page.txt")
    assert status == 2 and not out and "ends in .html" in error


def test_the_page_of_studies(tmp_path: Path, run: Run) -> None:
    results = Path(__file__).resolve().parents[2] / "examples" / "studies" / "results"
    assert run("report", results, "--html", tmp_path / "page.html")[0] == 0
    assert "<h1>results: " in (tmp_path / "page.html").read_text("utf-8")
