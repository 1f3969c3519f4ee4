"""What the fuzz harness found, each kind with its neighbours: an error of ours that names the file and the place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import tlora_ref as tr
from tests.faults import runs
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import read_config
from tlora_ref.data import encode_rows, load_dataset
from tlora_ref.errors import CheckpointError, ConfigError, DataError, TLoRAError
from tlora_ref.files import parse_json, read_yaml
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.scalars import usable
from tlora_ref.oracle.stages.initialization import judge_initialize_a
from tlora_ref.oracle.traces.manifest import VERSION, Manifest
from tlora_ref.study import read_results, tables
from tlora_ref.study.claims import load_claims
from tlora_ref.training import read_history


@pytest.mark.parametrize("trained", [1, 0.5, 1e-300])
def test_longrope_trained_at_no_length(trained: float, tmp_path: Path) -> None:
    """Its temperature divides by the logarithm of that length."""
    tr.save_model(tiny_llama(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    scaling = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "factor": 2.0}
    scaling["original_max_position_embeddings"] = trained
    (tmp_path / "config.json").write_text(json.dumps({**values, "rope_scaling": scaling, "rope_parameters": None}))
    with pytest.raises(ConfigError, match="original_max_position_embeddings"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("size", ["Infinity", "NaN", "-4", "0", "2.5", '"16"', "null", "true", "1e400"])
@pytest.mark.parametrize("side", ["d_out", "d_in"])
def test_a_manifest_with_sizes_that_are_none(size: str, side: str, tmp_path: Path) -> None:
    module = {"name": "m", "d_out": 2, "d_in": 2, side: "?"}
    values = {"format": "tlora_ref.trace", "version": VERSION, "modules": [module], "r_init": 1, "alpha": 1.0}
    (tmp_path / "manifest.json").write_text(json.dumps(values).replace('"?"', size))
    with pytest.raises(CheckpointError, match=r"a module is|not valid JSON"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",  # a date that is none: ValueError of PyYAML's
        r'a: "x\0y"',  # no path has a NUL
        r'"x\0y": 1',
        r'a: ["\ud800"]',  # nothing prints half a pair
        "a: &a [1]\nb: *a",  # gigabytes in a few hundred bytes
        "[" * 5000,
    ],
)
@pytest.mark.parametrize("read", [read_yaml, tr.load_study, load_claims, lambda path: tr.load_task(str(path))])
def test_yaml_that_is_none(text: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    """Every file of ours in YAML goes through one reader."""
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '"\\ud800"', "{", "", "[1,]"])
def test_json_that_is_none(text: str, tmp_path: Path) -> None:
    """And every one in JSON."""
    with pytest.raises(ValueError):
        parse_json(text)
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + (text or "x"))
    with pytest.raises(CheckpointError, match=r"history\.jsonl: the run's history is damaged"):
        read_history(tmp_path)
    (tmp_path / "s.jsonl").write_text(text + "\n")
    (tmp_path / "history.jsonl").unlink()
    with pytest.raises(DataError, match=r"s\.jsonl, line 1"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        *(
            {"step": 1},
            {"loss": 1.0},
            {"step": "1", "loss": 1.0},
            {"step": 1, "loss": "1"},
            {"step": True, "loss": 1.0},
        ),
        *({"step": 1, "loss": float("nan")}, {"step": 1, "loss": 1.0, "valid_loss": None}, [], None, 1, "step loss"),
    ],
)
def test_a_history_of_no_losses(entry: Any, tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n" + json.dumps(entry))
    with pytest.raises(CheckpointError, match="entry 2 is"):
        read_history(tmp_path)


def changed(values: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy in which `a/b` is `value`, or is not there for ...."""
    name, _, rest = place.partition("/")
    inner = changed(values[name], rest, value) if rest else value
    return {key: v for key, v in {**values, name: inner}.items() if v is not ...}


@pytest.mark.parametrize("value", [..., [], {"x": []}, "a", True, -1, [1, "a"], {"first": "a"}])
def test_results_that_are_none(value: Any, tmp_path: Path) -> None:
    """Whatever a line of results lacks, or holds of another kind, is named with its line: nothing of it is counted."""
    runs.results(tmp_path)
    head, run, *_ = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    places = ["cells", *(f"study/{key}" for key in ("steps", "batch_size", "learning_rates")), "study/paper/values"]
    numbers = ("rank", "samples", "lr", "seed", "r_init", "trained", "test_loss", "peak_bytes", "seconds")
    fits = {"study/learning_rates": [[]], "lr": [-1], "test_loss": [-1], "peak_bytes": [-1], "seconds": [[]]}
    fits["study/paper/values"] = [...]
    for line, place in [*((1, place) for place in places), *((2, name) for name in (*numbers, "gradient_norm"))]:
        if value in fits.get(place, []):
            continue
        lines = [changed(head, place, value), run] if line == 1 else [head, changed(run, place, value)]
        (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(DataError, match=rf"line {line}: {place}.* missing or of another kind"):
            read_results(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": {"words": {"data": "data", "template": ["plain"]}}}, "template is"),
        ({"tasks": {"words": {"data": "data", "template": 5}}}, "template is 5"),
        ({"paper": {"values": ["LoRA"]}}, "paper's values are"),
        ({"paper": {"values": {"LoRA": "high"}}}, "paper's values are"),
        ({"learning_rates": [10**400]}, "learning_rates is"),
        ({"models": {"tiny": "a" * 5000}}, "File name too long"),
    ],
)
def test_studies_that_are_none(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    runs.study(tmp_path)
    values = yaml.safe_load((tmp_path / "study.yaml").read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**values, **changes}))
    with pytest.raises(ConfigError, match=said):
        tr.load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "values", [{"less": 5}, {"of": [1]}, {"beside": "a"}, {"measure": 5}, {"study": 1}, {"claim": None}, {"larger": {}}]
)
def test_claims_that_are_none(values: dict[str, Any], tmp_path: Path) -> None:
    sound = {"claim": "c", "where": "w", "study": "s", "less": {"variant": "a"}, "than": {"variant": "b"}}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump([{**sound, **values}]))
    with pytest.raises(ConfigError, match=f"{next(iter(values))} is"):
        load_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize("damaged", [5, "x", [1.0], {"tensor": "none"}, {}, None])
def test_vectors_whose_inputs_are_none(damaged: Any, tmp_path: Path) -> None:
    runs.vectors(tmp_path)
    values = json.loads((tmp_path / "vectors.json").read_text())
    for case in values["cases"]:
        if not case.get("refuses"):
            case["inputs"] = dict.fromkeys(case["inputs"], damaged)
    (tmp_path / "vectors.json").write_text(json.dumps(values))
    with pytest.raises(TLoRAError, match=r"vectors\.json"):
        runs.compare_vectors(tmp_path, tmp_path / "answers")


@pytest.mark.parametrize(
    "case", [5, "x", [], {}, {"id": {}}, {"id": "a", "stage": [], "note": ""}, {"stage": "scales"}]
)
def test_vectors_whose_cases_are_none(case: Any, tmp_path: Path) -> None:
    runs.vectors(tmp_path)
    values = json.loads((tmp_path / "vectors.json").read_text())
    values["cases"][0] = {**values["cases"][0], **case} if isinstance(case, dict) and "id" in case else case
    (tmp_path / "vectors.json").write_text(json.dumps(values))
    with pytest.raises(TLoRAError, match=r"vectors\.json: expected a known profile and cases"):
        runs.compare_vectors(tmp_path, tmp_path / "answers")


@pytest.mark.parametrize("paper", [None, {}, {"values": None}, {"values": {}}])
def test_results_beside_which_the_paper_says_nothing(paper: Any, tmp_path: Path) -> None:
    runs.results(tmp_path)
    head, *lines = (tmp_path / "s.jsonl").read_text().splitlines()
    head = json.dumps(changed(json.loads(head), "study/paper", paper))
    (tmp_path / "s.jsonl").write_text("\n".join([head, *lines]))
    runs.use_results(tmp_path)
    assert tables.paper_said(read_results(tmp_path)[0]) == ""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A golden trace and one like it."""
    folder = tmp_path_factory.mktemp("traces")
    for name in ("golden", "candidate"):
        tr.trace(tiny_llama(), tiny_samples(2), folder / name, r_init=2, steps=1)
    return folder


#: Near the largest number, where a square is beyond that, and the smallest: what they are put into.
HUGE, SMALLEST = (1.79e308, -1e155), 5e-324
JUDGED = ("covariance", "sensitivity", "A", "sigma", "B", "grad_B")


@pytest.mark.parametrize("quantity", [*JUDGED, "exp_avg_sq", "lr"])
def test_numbers_that_overflow_in_a_trace(quantity: str, traces: Path, tmp_path: Path) -> None:
    """A candidate's are told as what they are; a golden trace that holds one is damaged. Tiny ones are numbers."""
    shutil.copytree(traces, tmp_path, dirs_exist_ok=True)
    sound = load_file(tmp_path / "golden" / "trace.safetensors")
    name = next(name for name in sound if quantity in name.split("/"))
    for value in (*HUGE, SMALLEST):
        filled = {**sound, name: np.full_like(sound[name], value)}
        save_file(filled, tmp_path / "candidate" / "trace.safetensors")
        report = tr.compare(tmp_path / "golden", tmp_path / "candidate")
        said = "".join(finding.line() for finding in report.of("fail"))
        assert value == SMALLEST or f"holds {value:.3g}"[:10] in said
    save_file(sound, tmp_path / "candidate" / "trace.safetensors")
    save_file({**sound, name: np.full_like(sound[name], HUGE[0])}, tmp_path / "golden" / "trace.safetensors")
    if quantity in JUDGED:
        with pytest.raises(CheckpointError, match="nothing in a run is beyond 1e"):
            tr.compare(tmp_path / "golden", tmp_path / "candidate")


@pytest.mark.parametrize("value", [*HUGE, 1e200])
def test_an_A_whose_squares_overflow(value: float) -> None:
    """What `check` is given by a function that blows up: wrong, and no failure of the judge's own SVD."""
    W, C = np.eye(3), np.diag([3.0, 2.0, 1.0])
    A = np.eye(3)[:2]
    A[0, 1] = value
    verdicts = judge_initialize_a(A, W=W, C=C, r=2, switches=PROFILES["paper"], precision=Precision.of("float64"))
    assert not all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize("more", [{}, {"labels": [1, 2]}, {"attention_mask": [1]}])
def test_a_row_whose_tokens_are_null(more: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"input_ids": None, **more}))
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1"):
        encode_rows(load_dataset(tmp_path / "rows.jsonl"), None, max_length=8)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "bool", ml_dtypes.bfloat16])
def test_what_is_a_number_of_a_trace(dtype: Any) -> None:
    """In every dtype of a file: an infinity is none, however few bits it has."""
    kind = np.dtype(dtype)
    values = np.array([0, 1, 1], dtype=kind)
    assert usable(values).all()
    if kind.kind not in "ib":
        with np.errstate(all="raise"):
            assert usable(np.array([1.0, np.inf, -np.inf, np.nan], dtype=kind)).tolist() == [True, False, False, False]
    assert usable(np.array([1e101, -1e101, 1e99])).tolist() == [False, False, True]
