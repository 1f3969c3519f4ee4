"""Flags from a YAML file, and the resolved ones written beside the results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tests.cli.conftest import Run
from tlora_ref.cli.main import app


def init(run: Run, folder: Path, out: str, *more: object) -> tuple[int, str, str]:
    return run("init", folder / "model", "--data", folder / "data", "--out", folder / out, "--json", *more)


def test_a_config_file_holds_flags_and_flags_win(folder: Path, run: Run) -> None:
    config = folder / "flags.yaml"
    config.write_text("rank: 5\nsamples: 2\nuniform-scale: true\nseed: null\n", encoding="utf-8")
    status, said, _ = init(run, folder, "a", "--config", config)
    plan = json.loads(said)["plan"]
    assert status == 0 and plan["r_init"] == 5 and not plan["adapt_scale"] and len(json.loads(said)["calibration"]) == 2
    status, said, _ = init(run, folder, "b", "--config", config, "--rank", 3)
    assert status == 0 and json.loads(said)["plan"]["r_init"] == 3
    assert yaml.safe_load((folder / "b" / "config.yaml").read_text())["rank"] == 3


def test_required_flags_repeated_flags_and_the_model_may_come_from_it(folder: Path, run: Run) -> None:
    values = {
        "model": str(folder / "model"),
        "data": str(folder / "text.jsonl"),
        "field": {"prompt": "question", "completion": "reply"},
        "out": str(folder / "a"),
        "targets": ["q_proj", "down_proj"],
        "switch": {"centre": True},
        "samples": 3,
    }
    (folder / "all.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    status, said, error = run("init", "--config", folder / "all.yaml", "--json")
    assert status == 0, error
    plan = json.loads(said)["plan"]
    assert len(plan["rank"]) == 4 and plan["switches"]["centre"] and plan["switches"]["name"] == "paper+"


def test_the_resolved_config_of_a_run_repeats_it(folder: Path, run: Run) -> None:
    common = ("--samples", 3, "--rank", 2, "--target", "v_proj", "--betas", 0.8, 0.99, "--lr", 0.03, "--steps", 3)
    status, _, error = run(
        "train", folder / "model", "--data", folder / "data", "--out", folder / "a", *common, "--max-grad-norm", 0.5
    )
    assert status == 0, error
    config = folder / "a" / "config.yaml"
    assert yaml.safe_load(config.read_text())["betas"] == [0.8, 0.99]
    assert run("train", "--config", config, "--out", folder / "b")[0] == 0
    one, two = ((folder / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in "ab")
    assert one == two
    assert json.loads((folder / "b" / "manifest.json").read_text())["settings"]["betas"] == [0.8, 0.99]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("rnak: 5", 'unknown key "rnak" for this command: did you mean rank?'),
        ("batch-size: 4", 'unknown key "batch-size"'),  # train's, not init's
        ("config: other.yaml", 'unknown key "config"'),
        ("- 5", "expected flags and their values"),
        ("rank: [1, 2]", 'key "rank" holds [1, 2], expected one value'),
        ("rank: {a: 1}", 'key "rank"'),
        ("rank: many", 'key "rank" holds'),
        ("rank: [", "not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_bad_config_file_is_named(folder: Path, run: Run, text: str, match: str) -> None:
    config = folder / "flags.yaml"
    config.write_text(text, encoding="utf-8")
    status, said, error = init(run, folder, "a", "--config", config)
    assert status == 2 and match in error and said == "" and not (folder / "a").exists()


def test_a_missing_config_file(folder: Path, run: Run) -> None:
    status, _, error = init(run, folder, "a", "--config", folder / "none.yaml")
    assert status == 2 and "none.yaml: cannot be read" in error


def test_every_flag_is_dashed() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        flags = [spelling for parameter in command.params for spelling in parameter.opts if spelling.startswith("-")]
        assert flags and not [flag for flag in flags if "_" in flag], name


PARTS = {
    "common": {"rank": 3, "batch-size": 2, "lr": 0.5, "seed": 7},
    "train": {"lr": 0.01, "steps": 2, "samples": 3},
    "eval": {"split": "test"},
}


def test_one_file_serves_train_and_eval(folder: Path, run: Run) -> None:
    file = folder / "all.yaml"
    here = {"model": str(folder / "model"), "data": str(folder / "data")}
    file.write_text(yaml.safe_dump({**PARTS, "common": {**PARTS["common"], **here}}), encoding="utf-8")
    status, _, error = run("train", "--config", file, "--out", folder / "run")
    assert status == 0, error
    flags = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    expected = {"rank": 3, "batch-size": 2, "lr": 0.01, "seed": 7, "steps": 2, "samples": 3, "split": "train"}
    assert {name: flags[name] for name in expected} == expected
    status, said, error = run("eval", "--config", file, "--adapter", folder / "run" / "adapter", "--json")
    words = ("--adapter", folder / "run" / "adapter", "--split", "test", "--batch-size", 2, "--json")
    again = run("eval", folder / "model", "--data", folder / "data", *words)[1]
    assert status == 0 and json.loads(said)["loss"] == json.loads(again)["loss"], error
    assert run("train", "--config", file, "--out", folder / "b", "--rank", 2)[0] == 0  # a flag wins over both parts
    assert yaml.safe_load((folder / "b" / "config.yaml").read_text())["rank"] == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"common": {"rnak": 3}}, ('part "common": unknown key "rnak"', "rank")),
        ({"common": {}, "eval": {"batchsize": 3}}, ('part "eval": unknown key "batchsize"', "batch-size")),
        ({"common": {}, "trian": {"lr": 3}}, ('unknown part "trian"', "train")),
        ({"common": {}, "rank": 3}, ('unknown part "rank"', "expected common")),
        ({"common": {}, "eval": [1]}, ('part "eval" holds [1]', "expected flags")),
        ({"common": {"max-new-tokens": 3}, "train": {}}, ('unknown key "max-new-tokens"',)),
    ],
)
def test_a_slip_in_any_part_is_said_at_once(folder: Path, run: Run, values: dict, said: tuple[str, ...]) -> None:
    (folder / "all.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    status, out, error = run("train", folder / "model", "--config", folder / "all.yaml", "--data", folder / "data",
                             "--out", folder / "run")  # fmt: skip
    assert status == 2 and not out and all(part in error for part in said) and not (folder / "run").exists()
