"""Traces: their content against recorded truth, their repetition bit for bit, every family, and damaged folders."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.families.test_traces import close, samples
from tests.method.recorded import CASES, TRACES, recorded
from tests.oracle.false_alarms import main as false_alarms
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import save_model, save_peft
from tlora_ref.cli.main import main
from tlora_ref.errors import CheckpointError, ConfigError, ShapeError
from tlora_ref.oracle.traces import MANIFEST, TENSORS, Manifest, Trace, TraceWriter

MODEL, SAMPLES = tiny_llama(seed=1), tiny_samples(2, seed=1)


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    tr.trace(MODEL, SAMPLES, tmp_path / "golden", r_init=2, steps=2)
    return tmp_path / "golden"


@pytest.mark.parametrize("case", CASES)
def test_a_trace_holds_what_pytorch_recorded(case: str, tmp_path: Path) -> None:
    record = recorded(case)
    model = tr.load_model(TRACES / case / "checkpoint")
    settings = record.settings
    budget = {"r_init": settings["r_init"], "alpha": settings["alpha"], "targets": settings["targets"]}
    tr.trace(model, samples(record), tmp_path / "t", **budget, steps=2, noise=False)
    trace = Trace(tmp_path / "t")
    assert list(trace.shapes) == record.modules
    close([float(trace.get(f"sample/{n}/loss")) for n in range(settings["N"])], record.truth["base.loss"])
    for m in record.modules:
        close(trace.get(f"covariance/{m}"), record.truth[f"paper.cov/{m}"])
        close(trace.get(f"sensitivity/{m}"), record.scalar("paper.score", m))
        close(trace.get(f"scale/{m}"), record.scalar("paper.scaling", m))
        assert int(trace.get(f"rank/{m}")) == int(record.scalar("paper.rank_used", m))
        assert trace.has(f"A/{m}") == (f"paper.A/{m}" in record.truth)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("profile", ["paper", "released"])
def test_every_family_verifies_against_itself(name: str, profile: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    rows = tiny_samples(2, seed=2, length=(5, 9))
    if getattr(model.config, "labels", ()):
        rows = [{"input_ids": row["input_ids"], "labels": n % 2} for n, row in enumerate(rows)]
    tr.trace(model, rows, tmp_path / "t", profile=profile, r_init=2, steps=1)
    report = tr.compare(tmp_path / "t", tmp_path / "t", checkpoint=model)
    assert report.passed, [finding.line() for finding in report.of("fail")][:3]


def test_the_same_call_writes_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    tr.trace(MODEL, SAMPLES, tmp_path / "again", r_init=2, steps=2)
    for name in (TENSORS, MANIFEST):
        assert (golden / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_twenty_four_right_candidates_are_right() -> None:
    assert false_alarms(24) == 0


def test_a_missing_quantity_is_skipped_and_listed_never_passed(golden: Path) -> None:
    tensors = load_file(golden / TENSORS)
    save_file({k: v for k, v in tensors.items() if not k.startswith("covariance/")}, golden / TENSORS)
    other = golden.with_name("whole")
    tr.trace(MODEL, SAMPLES, other, r_init=2, steps=2)
    report = tr.compare(other, golden, checkpoint=MODEL)
    assert {f.module for f in report.of("skip") if f.stage == "covariance"} == set(MODEL.shapes())
    assert report.unrecorded == {"covariance/<m>": f"{len(MODEL.shapes())} of {len(MODEL.shapes())}"}


def test_an_empty_candidate_is_not_right(golden: Path, tmp_path: Path) -> None:
    TraceWriter(Manifest(modules=Trace(golden).manifest.modules, r_init=2, alpha=2.0)).write(tmp_path / "none")
    report = tr.compare(golden, tmp_path / "none")
    assert not report.passed and report.first_failing is None


@pytest.mark.parametrize("wrong", [False, True])
def test_a_bare_adapter_is_a_candidate(golden: Path, tmp_path: Path, wrong: bool) -> None:
    stats = tr.calibrate(MODEL, SAMPLES)
    plan = tr.allocate(stats.sensitivity, MODEL.shapes(), 2, 2)
    adapter = tr.initialize(MODEL, stats, plan, init="w-svd" if wrong else "wc-svd")
    save_peft(adapter, tmp_path / "adapter")
    report = tr.compare(golden, tmp_path / "adapter", checkpoint=MODEL)
    assert report.passed is not wrong
    if wrong:
        assert report.first_failing == "A" and "W-SVD" in str(report.cause)


def damage_version(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**values, "version": 99}))


def damage_shape(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    name = next(k for k in tensors if k.startswith("covariance/"))
    tensors[name] = tensors[name][:-1].copy()
    save_file(tensors, folder / TENSORS)


def damage_model(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    values["modules"] = values["modules"][:-1]
    tensors = load_file(folder / TENSORS)
    kept = {m["name"] for m in values["modules"]}
    names = {k: v for k, v in tensors.items() if "model." not in k or k[k.index("model.") :] in kept}
    save_file(names, folder / TENSORS)
    (folder / MANIFEST).write_text(json.dumps(values))


def damage_samples(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    tensors["sample/0/input_ids"][0] += 1
    save_file(tensors, folder / TENSORS)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "manifest"),
    "no tensors": (lambda f: (f / TENSORS).unlink(), TENSORS),
    "another version": (damage_version, "version 99"),
    "not JSON": (lambda f: (f / MANIFEST).write_text("{"), "JSON"),
    "truncated": (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]), "truncated"),
    "wrong shape": (damage_shape, "expected (d_in, d_in)"),
    "another model": (damage_model, "different models"),
    "other samples": (damage_samples, "other samples"),
}


@pytest.mark.parametrize("what", sorted(DAMAGES))
def test_a_damaged_candidate_is_bad_input_not_a_verdict(
    what: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate = tmp_path / "candidate"
    tr.trace(MODEL, SAMPLES, candidate, r_init=2, steps=2)
    damage, said = DAMAGES[what]
    damage(candidate)
    with pytest.raises(CheckpointError):
        tr.compare(golden, candidate)
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(golden), str(candidate)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_another_profile_or_budget_is_refused(golden: Path, tmp_path: Path) -> None:
    tr.trace(MODEL, SAMPLES, tmp_path / "r", profile="released", r_init=2, steps=1)
    with pytest.raises(ConfigError, match="profile"):
        tr.compare(golden, tmp_path / "r")
    tr.trace(MODEL, SAMPLES, tmp_path / "b", r_init=3, steps=1)
    with pytest.raises(ConfigError, match="r_init"):
        tr.compare(golden, tmp_path / "b")
    with pytest.raises(ConfigError, match="tolerances"):
        tr.compare(golden, golden, tolerances={"nothing": 2.0})
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="tolerance factor of A is"):
            tr.compare(golden, golden, tolerances={"A": factor})


#: A manifest's fields as a person or a program may get them wrong, and what is said of it.
MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "noise is a list": ({"noise": [1]}, '"noise" is [1], expected an object'),
    "noise holds a list": ({"noise": {"float32": [1]}}, '"noise" of float32'),
    "noise holds a text": ({"noise": {"float32": {"loss": {"0": "x"}}}}, '"noise" of float32'),
    "train is a text": ({"train": "no"}, '"train" is'),
    "betas is a text": ({"train": {"betas": "x"}}, "betas"),
    "one of two betas": ({"train": {"betas": [0.9]}}, "betas"),
    "train has an unknown setting": ({"train": {"optimiser": "sgd"}}, "optimiser"),
    "alpha is a text": ({"alpha": "2"}, '"alpha" is'),
    "r_init is a text": ({"r_init": "2"}, '"r_init" is'),
    "r_init is true": ({"r_init": True}, '"r_init" is'),
    "an unknown dtype": ({"dtype": "int8"}, 'dtype "int8" is unknown'),
    "modules is an object": ({"modules": {}}, '"modules" is'),
    "versions is a text": ({"versions": "x"}, '"versions" is'),
}


@pytest.mark.parametrize("what", sorted(MANIFESTS))
@pytest.mark.parametrize("whose", ["golden", "candidate"])
def test_a_manifest_of_other_kinds_of_values_is_bad_input(
    what: str, whose: str, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, said = MANIFESTS[what]
    shutil.copytree(golden, tmp_path / "other")
    values = json.loads((golden / MANIFEST).read_text())
    (tmp_path / "other" / MANIFEST).write_text(json.dumps({**values, **changes}))
    pair = (tmp_path / "other", golden) if whose == "golden" else (golden, tmp_path / "other")
    for command in (["verify", *map(str, pair)], ["report", str(tmp_path / "other")]):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and error.count("\n") == 1 and said in error


def test_a_module_listed_twice_is_bad_input(golden: Path) -> None:
    values = json.loads((golden / MANIFEST).read_text())
    values["modules"].append(values["modules"][0])
    (golden / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is listed twice"):
        Trace(golden)


def test_settings_that_a_manifest_leaves_out_are_the_usual_ones(golden: Path) -> None:
    values = json.loads((golden / MANIFEST).read_text())
    for name in ("betas", "eps", "weight_decay", "max_grad_norm", "seed"):
        del values["train"][name]
    (golden / MANIFEST).write_text(json.dumps(values))
    assert tr.compare(golden, golden, checkpoint=MODEL).passed


def test_a_candidate_with_nothing_to_judge_is_no_verdict(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TraceWriter(Manifest(modules=Trace(golden).manifest.modules, r_init=2, alpha=2.0)).write(tmp_path / "none")
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(golden), str(tmp_path / "none")])
    assert stopped.value.code == 2 and "nothing could be checked" in capsys.readouterr().err


def test_names_and_shapes_are_checked_when_written(golden: Path) -> None:
    writer = TraceWriter(Trace(golden).manifest)
    module = next(iter(writer.manifest.shapes()))
    with pytest.raises(ConfigError, match="no name of the format"):
        writer.add("covarience/x", np.zeros(1))
    with pytest.raises(ConfigError, match="does not list"):
        writer.add("covariance/x", np.zeros((1, 1)))
    with pytest.raises(ShapeError, match="expected"):
        writer.add(f"covariance/{module}", np.zeros((1, 2)))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """trace writes a folder whose own command writes it again; verify says right (0) and wrong (1)."""
    save_model(MODEL, tmp_path / "model", "float64")
    rows = [json.dumps(sample) for sample in tiny_samples(4, seed=3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))

    def run(*words: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main(list(words))
        return int(stopped.value.code or 0)

    folders = [tmp_path / name for name in ("a", "b")]
    command = ["trace", str(tmp_path / "model"), "--data", str(tmp_path / "rows.jsonl"), "--rank", "2", "--steps", "2"]
    settings = ["--schedule", "linear", "--warmup-ratio", "0.5", "--betas", "0.8", "0.9", "--weight-decay", "0.1"]
    command += [*settings, "--max-grad-norm", "0.5"]
    assert run(*command, "--samples", "3", "--out", str(folders[0])) == 0
    manifest = json.loads((folders[0] / MANIFEST).read_text())
    train, again = manifest["train"], manifest["command"][1:]
    assert (train["schedule"], train["warmup_ratio"], train["betas"]) == ("linear", 0.5, [0.8, 0.9])
    assert (train["weight_decay"], train["max_grad_norm"], train["lr"]) == (0.1, 0.5, 1e-2)
    assert run(*[str(folders[1]) if word == str(folders[0]) else word for word in again]) == 0
    assert (folders[0] / TENSORS).read_bytes() == (folders[1] / TENSORS).read_bytes()
    capsys.readouterr()
    assert run("verify", str(folders[0]), str(folders[1]), "--checkpoint", str(tmp_path / "model")) == 0
    assert "right" in capsys.readouterr().out
    tensors = load_file(folders[1] / TENSORS)
    name = next(k for k in tensors if k.startswith("covariance/"))
    tensors[name] *= 1.01
    save_file(tensors, folders[1] / TENSORS)
    assert run("verify", str(folders[0]), str(folders[1]), "--json") == 1
    values = json.loads(capsys.readouterr().out)
    assert values["first_failing"] == "covariance" and not values["passed"]
