"""Running: each cell kept as it ends, going on after a stop, the same bits with workers, equal parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.study.conftest import declare
from tlora_ref.calibration import processes
from tlora_ref.errors import DataError, NumericsError, TLoRAError
from tlora_ref.study import VARIANTS, cell, holds_results, read_results, run, work_of
from tlora_ref.study.analysis import outcomes
from tlora_ref.study.cell import digests_of, key_of
from tlora_ref.study.results import RUN

#: What is the same whenever and wherever a cell is run.
SAME = ("key", "variant", "r_init", "trained", "valid_loss", "test_loss", "gradient_norm", "phi")


#: A run whose losses are there, and what it took is not.
FINITE_ALONE = json.dumps(dict.fromkeys(RUN, 1))


def bits(results: tr.study.Results) -> list[dict[str, Any]]:
    return [{name: found[name] for name in SAME} for found in results.runs]


def test_a_cell_is_what_the_library_gives_by_hand(place: Path) -> None:
    results = tr.run_study(tr.load_study(place / "study.yaml"), place / "out")
    model = tr.load_model(place / "model", dtype="float32")
    samples = {
        split: [json.loads(line) for line in (place / "data" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "valid", "test")
    }
    drawn = sorted(np.random.default_rng(1).choice(9, size=6, replace=False))
    stats = tr.calibrate(model, [samples["train"][i] for i in drawn])
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 2.0))
    tr.train(model, adapter, samples["train"], steps=2, batch_size=2, lr=1e-2, seed=1)
    by_hand = [tr.evaluate(model, samples[split], batch_size=32).loss for split in ("valid", "test")]
    tlora = results.runs[1]
    assert [tlora["valid_loss"], tlora["test_loss"]] == by_hand
    assert tlora["trained"] == sum(B.size for B in adapter.B.values()) and tlora["r_init"] == 2
    assert 0 < tlora["phi"] <= 1 and results.runs[0]["phi"] is None
    assert tlora["provenance"]["numpy"] == np.__version__ and tlora["peak_bytes"] > 2**20
    assert read_results(place / "out") == [results] and results.complete


def test_what_is_there_is_not_run_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tr.load_study(declare(place, equal=["rank", "parameters"]))
    calls: list[Any] = []
    real = run.run_cell
    monkeypatch.setattr(run, "run_cell", lambda study, its: calls.append(its) or real(study, its))

    def stop(done: int, total: int, said: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tr.run_study(study, place / "out", progress=stop)
    assert len(calls) == 1 and len(read_results(place / "out")[0].runs) == 2  # LoRA is one run at equal parameters
    work = work_of(study, place / "out")
    assert [state for _, state in work.states()] == ["there", "to run", "there", "to run"] and work.measured
    whole = tr.run_study(study, place / "out")
    assert len(calls) == 3 and whole.complete
    assert bits(whole) == bits(tr.run_study(study, place / "other"))
    other_name = tr.load_study(declare(place, name="again", variants={"mine": {"init": "random", "trained": "AB"}}))
    assert tr.run_study(other_name, place / "out").runs[0]["variant"] == "mine"
    assert len(calls) == 6, "a run is known by what it does, whatever it is called"
    assert [found.name for found in read_results(place / "out")] == ["again", "study"]


def test_workers_give_the_same_bits(place: Path) -> None:
    study = tr.load_study(declare(place, learning_rates=["1e-2", "2e-2"]))
    alone = bits(tr.run_study(study, place / "alone"))
    with processes(2) as executor:
        assert bits(tr.run_study(study, place / "two", executor=executor)) == alone


def test_threads_of_one_process_wait_for_each_other(place: Path) -> None:
    study = tr.load_study(declare(place, learning_rates=["1e-2", "2e-2"], steps=6))
    alone = bits(tr.run_study(study, place / "alone"))
    with ThreadPoolExecutor(4) as executor:
        assert bits(tr.run_study(study, place / "four", executor=executor)) == alone


def test_a_dask_cluster_gives_the_same_bits(place: Path) -> None:
    distributed = pytest.importorskip("distributed")
    study = tr.load_study(declare(place, learning_rates=["1e-2", "2e-2"]))
    alone = bits(tr.run_study(study, place / "alone"))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        assert bits(tr.run_study(study, place / "dask", executor=client.get_executor())) == alone


def test_equal_parameters_is_the_largest_rank_within_loras(place: Path) -> None:
    shapes = tr.load_model(place / "model").shapes()
    budget = 2 * sum(d_out + d_in for d_out, d_in in shapes.values())
    S = {module: 1.0 + i for i, module in enumerate(shapes)}
    for name, variant in VARIANTS.items():
        plan = variant.largest(S, shapes, 2)
        assert variant.parameters(plan) <= budget, name
        more = variant.allocate(S, shapes, plan.r_init + 1)
        assert variant.parameters(more) > budget, name
    assert VARIANTS["LoRA"].largest(S, shapes, 2).r_init == 2


def test_a_run_that_diverges_is_a_result(place: Path) -> None:
    study = tr.load_study(declare(place, variants=["LoRA"], learning_rates=["1e30"], steps=4))
    found = tr.run_study(study, place / "out").runs[0]
    assert found["test_loss"] is None and found["error"]
    assert tr.run_study(study, place / "out").runs[0] == found


def test_an_initialisation_that_cannot_be_made_is_a_result(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **options: Any) -> Any:
        if options["init"] == "theory":
            raise NumericsError("C has the eigenvalue -1")
        return tr.initialize(*_, **options)

    monkeypatch.setattr(cell, "initialize", refuse)
    study = tr.load_study(declare(place, variants=["LoRA", "theory"]))
    found = tr.run_study(study, place / "out")
    assert found.complete and found.runs[1]["test_loss"] is None and "eigenvalue -1" in found.runs[1]["error"]
    assert read_results(place / "out") == [found] and [o.setting["variant"] for o in outcomes(found.runs)] == ["LoRA"]


def test_cells_in_a_row_share_a_calibration_and_its_phi(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("calibrate", "phi_root"):
        real = getattr(cell, name)
        monkeypatch.setattr(cell, name, lambda *a, real=real, name=name, **k: calls.append(name) or real(*a, **k))
    study = tr.load_study(declare(place, variants=["+Init", "+Init+SA", "TLoRA"], learning_rates=["1e-2", "2e-2"]))
    found = tr.run_study(study, place / "out")
    assert sorted(calls) == ["calibrate", "phi_root", "phi_root"]  # equal ranks, and those by Eq. 6
    phis = {run["variant"]: run["phi"] for run in found.runs}
    assert phis["+Init"] == phis["+Init+SA"] != phis["TLoRA"]


def test_a_smaller_grid_loses_no_run(place: Path) -> None:
    def run_rates(*rates: float) -> None:
        tr.run_study(tr.load_study(declare(place, variants=["LoRA"], learning_rates=list(rates))), place / "out")

    def held() -> dict[str, list[float]]:
        return {found.name: [run["lr"] for run in found.runs] for found in read_results(place / "out")}

    run_rates(0.01, 0.02)
    run_rates(0.01, 0.02, 0.03)
    assert held() == {"study": [0.01, 0.02, 0.03]}
    run_rates(0.01)
    assert held() == {"study": [0.01], "study.1": [0.01, 0.02, 0.03]}
    run_rates(0.02)  # there already: 0.01 is in study.1
    assert held() == {"study": [0.02], "study.1": [0.01, 0.02, 0.03]}
    run_rates(0.04)
    run_rates(0.03)
    assert held() == {"study": [0.03], "study.1": [0.01, 0.02, 0.03], "study.2": [0.04]}


def test_other_weights_or_rows_are_other_runs(place: Path) -> None:
    study = tr.load_study(place / "study.yaml")
    first = study.cells()[0]
    before = key_of(study, first, digests_of(study))
    with (place / "data" / "valid.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"input_ids": [1, 2, 3], "labels": [1, 2, 3]}))
    assert key_of(study, first, digests_of(study)) != before


def test_an_error_names_the_cell(place: Path) -> None:
    study = tr.load_study(declare(place, samples=[10]))
    with ThreadPoolExecutor(1) as executor:
        for chosen in (None, executor):
            with pytest.raises(TLoRAError, match="TLoRA, equal rank, rank 2, 10 samples"):
                tr.run_study(study, place / "out", executor=chosen)
    assert len(read_results(place / "out")[0].runs) == 1  # LoRA needs no samples


@pytest.mark.parametrize("line", ["{", "[]", '{"key": "a"}', FINITE_ALONE])
def test_damaged_results_are_named(place: Path, line: str) -> None:
    study = tr.load_study(place / "study.yaml")
    tr.run_study(study, place / "out")
    file = place / "out" / "study.jsonl"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"study\.jsonl, line 4"):
        tr.run_study(study, place / "out")
    assert holds_results(place / "out")


@pytest.mark.skipif(os.name == "nt", reason="kills as POSIX does")
def test_killed_in_the_middle_it_goes_on(place: Path) -> None:
    file = declare(place, seeds=list(range(200)), variants=["LoRA"])
    code = f"import tlora_ref as tr\ntr.run_study(tr.load_study({str(file)!r}), {str(place / 'out')!r})"
    kept = place / "out" / "study.jsonl"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (kept.exists() and len(kept.read_text().splitlines()) > 3):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    held = read_results(place / "out")[0]
    assert 3 <= len(held.runs) < 200
    short = tr.load_study(declare(place, seeds=list(range(len(held.runs) + 1)), variants=["LoRA"]))
    whole = tr.run_study(short, place / "out")
    assert whole.runs[: len(held.runs)] == held.runs and whole.complete
    assert sorted(p.name for p in (place / "out").iterdir()) == ["study.jsonl"]
