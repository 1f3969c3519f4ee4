"""What the fuzz harness found, each kind with its neighbours: an error of ours that names the file and the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tlora_ref as tr
from tests.faults import runs
from tests.tiny import tiny_llama
from tlora_ref.checkpoint import read_config
from tlora_ref.errors import CheckpointError, ConfigError, DataError, TLoRAError
from tlora_ref.files import parse_json, read_yaml
from tlora_ref.oracle.traces.manifest import VERSION, Manifest
from tlora_ref.study import read_results
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
