"""What a person is told a step beyond the straight way: stopped runs, other places, other ends, long tables."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tlora_ref.cli.screen import WIDTH, padded
from tlora_ref.pipeline.prompts import common_end
from tlora_ref.training import loop

SHORT = ("--samples", 2, "--rank", 2, "--batch-size", 2, "--lr", 0.01)


@pytest.fixture
def stopped(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 9 steps that Ctrl-C stopped in its fourth."""
    step = loop._step

    def until(model, state, *more):
        if state.step == 3:
            raise KeyboardInterrupt
        return step(model, state, *more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", until)
        words = ("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *SHORT, "--steps", 9)
        assert run(*words)[0] == 130
    return folder / "run"


def test_a_run_that_was_stopped_is_reported_and_how_to_go_on(stopped: Path, run: Run) -> None:
    status, out, error = run("report", stopped)
    assert status == 0, error
    losses = [json.loads(line)["loss"] for line in (stopped / "history.jsonl").read_text().splitlines()]
    assert "a training run that did not end" in out and "this run did not end: 3 of 9 steps so far. To go on:\n" in out
    assert f"training loss: {losses[0]:.4f} at step 1, {losses[2]:.4f} at step 3" in out
    command = shlex.split(out.splitlines()[-1])
    assert command[0] == "tlora-ref" and command[-1] == "--resume"
    page = stopped.parent / "page.html"
    assert run("report", stopped, "--html", page)[0] == 0 and "3 of 9 steps so far" in page.read_text("utf-8")
    told = json.loads(run("report", stopped, "--json")[1])
    assert told["unfinished"]["made"] == 3 and told["unfinished"]["planned"] == 9
    assert run(*command[1:])[0] == 0
    out = run("report", stopped)[1]
    assert "did not end" not in out and "at step 9" in out


def test_a_stopped_run_that_has_a_best_adapter_did_not_end_either(stopped: Path, run: Run) -> None:
    shutil.copytree(stopped / "initial_adapter", stopped / "adapter")
    assert "this run did not end: 3 of 9 steps so far" in run("report", stopped)[1]
    (stopped / "training_state.safetensors").unlink()  # as after the end, to save room
    assert "did not end" not in run("report", stopped)[1]


def test_a_killed_run_without_a_state_and_a_calibration(stopped: Path, run: Run) -> None:
    (stopped / "training_state.safetensors").unlink()
    (stopped / "manifest.json").write_text('{"command": ["tlora-ref", "train\\u001b[31m"]}')
    out = run("report", stopped)[1]
    assert "3 steps so far. To go on:\n  the command that made it, with --resume" in out
    shutil.rmtree(stopped / "initial_adapter")
    (stopped / "calibration.safetensors").touch()
    status, _, error = run("report", stopped)
    assert status == 2 and "a calibration that was stopped" in error


def test_resuming_what_has_ended_says_so(folder: Path, run: Run) -> None:
    words = ("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *SHORT, "--steps", 3)
    assert "nothing was left to do" not in run(*words)[1]
    status, out, _ = run(*words, "--resume")
    assert status == 0 and "nothing was left to do: this run had ended, at step 3" in out


def test_a_run_that_ended_for_want_of_patience_makes_no_step_more(folder: Path, run: Run) -> None:
    words = ("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *SHORT, "--steps", 9)
    patient = (*words, "--lr", 1.0, "--eval-every", 1, "--patience", 1, "--keep", "last")
    out = run(*patient)[1]
    files = [folder / "run" / "history.jsonl", folder / "run" / "adapter" / "adapter_model.safetensors"]
    before = [file.read_bytes() for file in files]
    assert before[0].count(b"\n") < 9, out
    assert "nothing was left to do" in run(*patient, "--resume")[1]
    assert [file.read_bytes() for file in files] == before


def test_the_model_may_be_named_by_its_config(folder: Path, run: Run) -> None:
    model, data = folder / "model", folder / "data"
    for command in (("eval", "--data", data), ("plan",)):
        ours, theirs = (run(command[0], place, *command[1:], "--json") for place in (model, model / "config.json"))
        assert ours[0] == theirs[0] == 0
    (folder / "other.json").write_text((model / "config.json").read_text())
    assert run("plan", folder / "other.json", "--json")[0] == 0
    assert "give the folder that config.json is in" in run("eval", folder / "other.json", "--data", data)[2]


@pytest.mark.parametrize("command", ["train", "init", "eval", "trace", "generate", "preview", "plan", "merge"])
def test_a_model_that_is_not_there(command: str, folder: Path, run: Run) -> None:
    status, out, error = run(command, folder / "none")
    assert status == 2 and out == "" and f"{folder / 'none'}: there is no such folder" in error


@pytest.mark.parametrize("command", ["train", "init", "explain"])
@pytest.mark.parametrize(
    ("row", "flags", "said"),
    [
        ('{"prompt": "w1", "completion": "w2"}', ("--template", "chat"), "chat template"),
        ('{"input_ids": [1, 2], "labels": [-100, -100]}', (), "no labelled token"),
        ('{"input_ids": [1, 99], "labels": [1, 99]}', (), "99"),
    ],
)
def test_rows_that_cannot_be_used_are_told_before_anything_else(
    command: str, row: str, flags: tuple[str, ...], said: str, folder: Path, run: Run
) -> None:
    (folder / "rows.jsonl").write_text("\n".join([row] * 4))
    out = folder / ("page.html" if command == "explain" else "out")
    status, printed, error = run(command, folder / "model", "--data", folder / "rows.jsonl", "--out", out, *flags)
    assert status == 2 and printed == "" and said in error.splitlines()[-1], (printed, error)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("tset", 'there is no split "tset" in it: there is test and train and valid (did you mean test?)'),
        ("validation", "(did you mean valid?)"),
        ("zzz", "there is test and train and valid\n"),
    ],
)
def test_a_split_that_is_not_there(split: str, said: str, folder: Path, run: Run) -> None:
    status, _, error = run("eval", folder / "model", "--data", folder / "data", "--split", split)
    assert status == 2 and said in error, error


def test_eval_says_what_it_scored(folder: Path, run: Run) -> None:
    assert run("eval", folder / "model", "--data", folder / "data")[1].startswith("test.jsonl: 3 of 3 rows, ")
    assert run("eval", folder / "model", "--data", folder / "text.jsonl", "--field", "prompt=question", "--field",
               "completion=reply")[1].startswith("text.jsonl: ")  # fmt: skip


def test_a_prompt_that_ends_otherwise_than_in_training(folder: Path, run: Run) -> None:
    rows = [{"prompt": f"w{i} w2 ?", "completion": f"w{i} w{i}"} for i in range(3, 13)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = folder / "run"
    assert run("train", folder / "model", "--data", folder / "rows.jsonl", "--out", out, *SHORT, "--steps", 2)[0] == 0
    ask = ("generate", folder / "model", "--adapter", out, "--max-new-tokens", 1)
    said = "all prompts that the adapter was trained on end in ' w2 ?'"
    assert f"{said}; the prompt does not" in run(*ask, "--prompt", "w5 w2")[2]
    assert said not in run(*ask, "--prompt", "w5 w2 ?")[2]
    (folder / "asked.jsonl").write_text('{"prompt": "w5 w2 ?"}\n{"prompt": "w5"}\n')
    assert f"{said}; 1 of 2 prompts do not" in run(*ask, "--prompts", folder / "asked.jsonl", "--out", folder / "x")[2]


@pytest.mark.parametrize(
    ("prompts", "end"),
    [
        ([f"{i} {'bf'[i % 2]}oxes.\n" for i in range(9)], ".\n"),  # not the end of a word
        ([f"What is {i}?\nAnswer:" for i in range(9)], "?\nAnswer:"),
        ([f"number {i}s" for i in range(9)], None),
        ([f"{i}?" for i in range(7)], None),  # too few to tell
        (["a?"] * 99, None),
        ([f"{i}" for i in range(99)], None),
        ([], None),
    ],
)
def test_what_all_prompts_end_in(prompts: list[str], end: str | None) -> None:
    assert common_end(prompts) == end


def test_plan_reckons_with_samples_no_longer_than_the_context(folder: Path, run: Run) -> None:
    assert "calibration, 32 samples of 64 tokens" in run("plan", folder / "model")[1]
    assert "calibration, 1 sample of 8 tokens" in run("plan", folder / "model", "--tokens", 8, "--samples", 1)[1]
    assert (
        "--tokens 99 is beyond the model's context: it is reckoned with 64"
        in run("plan", folder / "model", "--tokens", 99)[2]
    )


def test_ranks_that_sum_to_more_or_less_than_the_budget_are_explained(folder: Path, run: Run) -> None:
    seen = set()
    for seed in range(6):
        words = ("init", folder / "model", "--data", folder / "data", "--samples", 1, "--rank", 1, "--seed", seed)
        out = run(*words, "--out", folder / f"a{seed}")[1]
        plan = json.loads((folder / f"a{seed}" / "tlora.json").read_text())["plan"]
        over = sum(plan["rank_eq6"].values()) - len(plan["rank_eq6"])
        seen.add(over > 0)
        said = f"they sum to {abs(over)} {'more' if over > 0 else 'less'} than the budget"
        assert (said in out) == (over != 0 and sum(plan["rank"].values()) != len(plan["rank"])), out
        assert "calibrating on 1 sample: " in out
    assert True in seen or False in seen


WORDS = "a last column of text, of which a line has no more room than the others leave it"


def test_tables_stay_within_the_width() -> None:
    lines = list(padded([("name", "n", "what"), ("first", "1,000", WORDS)], [False, True, False]))
    assert max(map(len, lines)) <= WIDTH and len(lines) == 3
    assert lines[0] == "  name       n  what" and lines[1].startswith("  first  1,000  a last")
    assert lines[2][:16].isspace() and " ".join(line[16:].strip() for line in lines[1:]) == WORDS
    numbers = list(padded([("n" * 50, "m" * 50), ("1", "2")], [False, True]))
    assert len(numbers) == 2 and len(numbers[0]) == 104  # numbers are never broken


def test_a_text_that_has_no_room_beside_the_others_stands_below_them() -> None:
    lines = list(padded([("name", "what"), ("n" * 60, WORDS)], [False, False]))
    assert lines[:2] == [f"  {'name':60}  what", f"  {'n' * 60}"] and max(map(len, lines)) <= WIDTH
    assert " ".join(line.strip() for line in lines[2:]) == WORDS and all(line.startswith(" " * 6) for line in lines[2:])


@pytest.mark.parametrize("words", ["plan MODEL", "preview MODEL --data DATA", "check mine.py --examples 3"])
def test_nothing_is_wider_than_a_pipe_s_width(
    words: str, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "mine.py").write_text("def covariance(inputs):\n    return inputs[0].T @ inputs[0]\n")
    given = words.replace("MODEL", "model").replace("DATA", "data").split()
    lines = run(*given)[1].splitlines()
    if given[0] == "check":
        lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("failed: "))]
    assert [line for line in lines if len(line) > WIDTH] == []
