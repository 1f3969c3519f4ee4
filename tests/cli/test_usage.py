"""What a flag does not take, on the command line and in a file: one line, with the value and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tlora_ref.cli.commands import COMMANDS, Commands
from tlora_ref.cli.train import run as train
from tlora_ref.cli.values import Expected, expected

COUNT = "expected a whole number of at least 1"


def refused(run: Run, *words: object) -> str:
    status, out, error = run(*words)
    assert (status, out) == (2, "") and error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--rank eight", f"--rank eight: {COUNT}"),
        ("--rank 0", f"--rank 0: {COUNT}"),
        ("--rank=-3", f"--rank -3: {COUNT}"),
        ("--rank 8.0", f"--rank 8.0: {COUNT}"),
        ("--rank 1e3", f"--rank 1e3: {COUNT}"),
        ("--lr fast", "--lr fast: expected a number\n"),
        ("--betas 0.9 many", "--betas many: expected 2 values, each a number"),
        ("--seed -1", "--seed -1: expected a whole number of at least 0"),
        ("--max-length 1", "--max-length 1: expected a whole number of at least 2"),
        ("--steps", "--steps needs a value after it: a whole number"),
        ("--betas 0.9", "--betas needs a value after it: 2 values, each a number"),
        ("--json=yes", "--json takes no value"),
        ("--packing=1", "--packing takes no value"),
    ],
)
def test_a_value_that_is_none_of_the_flag(flags: str, said: str, folder: Path, run: Run) -> None:
    common = ("train", folder / "model", "--data", folder / "data", "--out", folder / "x")
    assert said in refused(run, *common, *flags.split())
    assert not (folder / "x").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train", "train needs MODEL, --data and --out: `tlora-ref train -h` says what they are"),
        ("train --out x", "train needs MODEL and --data: "),
        ("check", "check needs TARGET: `tlora-ref check -h` says what it is"),
        ("study", "study needs FILE: `tlora-ref study -h` says what it is"),
        ("export a --out b", "export needs --to: "),
        ("eval model data", "eval takes MODEL alone: what is data? Every other value follows its flag, --NAME data"),
        ("report a b c", "report takes FOLDER alone: what is b?"),
        ("demo now", "demo takes flags alone: what is now?"),
        ("verify a b c", "verify takes GOLDEN and CANDIDATE alone: what is c?"),
        ("--rank 8 train m", "the command comes first, then its flags"),
        ("--version=3", "the command comes first"),
    ],
)
def test_words_that_miss_something_or_are_too_many(words: str, said: str, run: Run) -> None:
    assert said in refused(run, *words.split())


def test_data_that_stand_without_their_flag(folder: Path, run: Run) -> None:
    assert f"follows its flag, --data {folder / 'data'}" in refused(run, "eval", folder / "model", folder / "data")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank: many", f"key \"rank\" holds 'many', {COUNT}"),
        ("rank: 0", f'key "rank" holds 0, {COUNT}'),
        ("rank: yes", f'key "rank" holds True, {COUNT}'),
        ("rank: 2.5", f'key "rank" holds 2.5, {COUNT}'),
        ("lr: no", 'key "lr" holds False, expected a number'),
        ("packing: 1", 'key "packing" holds 1, expected true or false'),
        ('packing: "yes"', "key \"packing\" holds 'yes', expected true or false"),
        ("betas: [0.9]", 'key "betas" holds [0.9], expected a list of 2 values, each a number'),
        ("betas: [0.9, a]", "expected a list of 2 values"),
        ("out: 2026", 'key "out" holds 2026, expected a path (in quotes)'),
        ("system: [a]", "it belongs to generate, chat"),
        ("profile: [paper]", "key \"profile\" holds ['paper'], expected one value: a text"),
        ("target: [q_proj, [v_proj]]", 'key "target" holds'),
        ("target: [no]", 'key "target" holds [False], expected a text or a list of texts'),
        ("target: null\nlr: -1", "training: lr is -1.0, expected a finite number, not negative (lr: from"),
        ("max-length: 8\nvalid: nowhere.jsonl\nlog: wandb", "--log wandb: expected tensorboard"),
    ],
)
def test_a_value_of_a_file_is_told_with_the_file_and_the_key(text: str, said: str, folder: Path, run: Run) -> None:
    file = folder / "c.yaml"
    file.write_text(text)
    error = refused(run, "train", folder / "model", "--data", folder / "data", "--out", folder / "x", "--config", file)
    assert said in error and (str(file) in error) and not (folder / "x").exists()


def test_a_flag_of_the_command_line_is_not_said_to_come_from_the_file(folder: Path, run: Run) -> None:
    (folder / "c.yaml").write_text("lr: 0.1\n")
    common = ("train", folder / "model", "--data", folder / "data", "--out", folder / "x")
    assert "c.yaml" not in refused(run, *common, "--config", folder / "c.yaml", "--lr", "-1")


@pytest.mark.parametrize(
    "text", ["rank: 2", "rank: '2'", "lr: 1", "lr: 1e-3", "stop: [1, a]", "stop: 3", "field: {a: b}"]
)
def test_what_a_file_may_hold(text: str, folder: Path, run: Run) -> None:
    (folder / "c.yaml").write_text(text)
    command = {"stop": "generate", "field": "preview"}.get(text.partition(":")[0], "train")
    assert "MODEL" in refused(
        run, command, "--config", folder / "c.yaml"
    )  # the file was read, and the model is missing


def test_what_a_flag_takes_is_what_its_command_says() -> None:
    takes = expected(train)
    assert takes["rank"] == Expected(int, least=1) and takes["alpha"] == Expected(float)
    assert takes["betas"] == Expected(float, count=2) and takes["target"] == Expected(str, many=True)
    assert takes["packing"] == Expected(bool) and takes["valid"] == Expected(Path)
    assert str(Expected(float, 0.0, 1.0)) == "a number from 0 to 1" and str(Expected(int, most=3)).endswith("at most 3")
    assert Expected(float, 0.0, 1.0).takes("0.5") and not Expected(float, 0.0, 1.0).takes("1.5")


def test_every_parameter_of_every_command_is_known() -> None:
    for name in COMMANDS:
        command = Commands()[name]
        parameters = {p.name for p in command.params} - {"help"}
        assert parameters <= set(expected(command.callback)), name


@pytest.mark.parametrize("words", [("train", "--rank", "eight", "-h"), ("train", "-h", "--rank", "0")])
def test_help_is_given_whatever_else_is_wrong(words: tuple[str, ...], run: Run) -> None:
    status, out, _ = run(*words)
    assert status == 0 and "Usage" in out
