"""The mistakes a newcomer makes with files and flags: each works as meant, or is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run

TEMPLATE = "{% for m in messages %}{{ {'system': 'w7', 'user': 'w8', 'assistant': 'w9'}[m.role] }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w9 {% endif %}"  # fmt: skip # noqa: E501
SHORT = ("--samples", 2, "--rank", 2, "--steps", 2, "--batch-size", 2)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def chat(folder: Path) -> Path:
    """The folder's model with a chat template of words."""
    config = {"chat_template": TEMPLATE, "eos_token": "w30"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def asked(run: Run, folder: Path, *flags: object) -> tuple[dict[str, Any], str]:
    status, said, error = run(
        "generate", folder / "model", "--prompt", "w3 w4", "--max-new-tokens", 4, "--json", *flags
    )
    assert status == 0, error
    return json.loads(said), error


def greedy(folder: Path, ids: list[int], adapter: Path | None = None) -> list[int]:
    model, _ = tr.load_adapted(folder / "model", adapter, "float32")
    return [int(i) for i in model.generate(ids, max_new_tokens=4, eos_token_id=30)[len(ids) :]]


# ---- which adapter is meant ----


def test_the_run_stands_for_its_adapter(trained: Path, run: Run) -> None:
    out, model, data = trained / "run", trained / "model", trained / "data"
    whole = [
        out,
        out / "adapter",
        out / "adapter" / "adapter_model.safetensors",
        out / "adapter" / "adapter_config.json",
    ]
    losses = [run("eval", model, "--data", data, "--adapter", path, "--json")[1] for path in whole]
    assert len(set(losses)) == 1 and losses[0] != run("eval", model, "--data", data, "--json")[1]
    for command in (
        ("generate", model, "--prompt", "w3", "--adapter", out),
        ("merge", model, "--adapter", out, "--out", trained / "merged"),
        ("train", model, "--data", data, "--adapter", out, "--out", trained / "more", "--steps", 2),
    ):
        status, _, error = run(*command)
        assert status == 0, error


def test_a_run_is_a_candidate_too(folder: Path, run: Run) -> None:
    common = (folder / "model", "--data", folder / "data", "--samples", 2, "--rank", 2, "--batch-size", 2)
    assert run("trace", *common, "--steps", 2, "--no-noise", "--out", folder / "golden")[0] == 0
    assert run("train", *common, "--steps", 2, "--out", folder / "run")[0] == 0
    results = [run("verify", folder / "golden", folder / "run" / end)[:2] for end in ("adapter", ".")]
    assert results[0] == results[1] and "Stages" in results[0][1]


def test_what_is_no_adapter_is_told(trained: Path, run: Run) -> None:
    evaluate = ("eval", trained / "model", "--data", trained / "data", "--adapter")
    shutil.copytree(trained / "run" / "adapter", trained / "several" / "checkpoint-1")
    shutil.copytree(trained / "run" / "adapter", trained / "several" / "checkpoint-2")
    (trained / "empty").mkdir()
    shutil.copytree(trained / "run" / "initial_adapter", trained / "begun" / "initial_adapter")
    for path, said in (
        ("nowhere", "there is no such folder"),
        ("several", "several adapters: give one, e.g."),
        ("model", "is a model's folder, not an adapter's"),
        ("begun", "the run there did not end"),
        ("empty", "adapter_config.json"),
    ):
        status, _, error = run(*evaluate, trained / path)
        assert status == 2 and said in error, (path, error)
    for model in (trained / "run", trained / "run" / "adapter"):
        status, _, error = run("generate", model, "--prompt", "w3")
        assert status == 2 and "is an adapter's folder, not a model's" in error and "--adapter" in error


def test_model_and_data_in_each_others_place_are_told(folder: Path, run: Run) -> None:
    model, data = folder / "model", folder / "data"
    for first, second, said in (
        (data, data, "holds data, not a model"),
        (data / "train.jsonl", data, "is a file, not a model's folder"),
        (model / "model.safetensors", data, f"is one file of a model: give its folder, {model}"),
        (model, model, "is a model's folder, not data"),
    ):
        status, _, error = run("eval", first, "--data", second)
        assert status == 2 and said in error, error
    status, _, error = run("plan", data)
    assert status == 2 and "holds data" in error
    with pytest.raises(tr.TLoRAError, match="holds data, not a model"):
        tr.load_model(data)


# ---- flags that cannot do what they say ----


def test_a_folder_that_exists_names_the_flag(folder: Path, run: Run) -> None:
    train = ("train", folder / "model", "--data", folder / "data", "--out", folder / "a", *SHORT)
    assert run(*train)[0] == 0
    status, _, error = run(*train)
    assert status == 2 and "already exists" in error and "--overwrite" in error and "--resume" in error
    status, _, error = run("init", folder / "model", "--data", folder / "data", "--samples", 2, "--out", folder / "a")
    assert status == 2 and "--overwrite" in error and "--resume" not in error


def test_evaluating_without_held_out_data_is_refused(folder: Path, run: Run) -> None:
    train = ("train", folder / "model", "--data", folder / "data" / "train.jsonl", "--out", folder / "a", *SHORT)
    status, _, error = run(*train, "--eval-every", 1)
    assert status == 2 and "--eval-every" in error and "--valid FILE" in error and not (folder / "a").exists()
    assert run(*train, "--eval-every", 1, "--valid", folder / "data" / "valid.jsonl")[0] == 0


@pytest.mark.parametrize("name", ["validation", "val", "dev"])
def test_held_out_data_under_another_name_are_told(name: str, folder: Path, run: Run) -> None:
    (folder / "data" / "valid.jsonl").rename(folder / "data" / f"{name}.jsonl")
    status, said, error = run("train", folder / "model", "--data", folder / "data", "--out", folder / "a", *SHORT)
    assert status == 0 and f"{name}.jsonl is not read as held-out data" in error and "0 held out" in said


def test_a_length_beyond_the_context_is_told(folder: Path, run: Run) -> None:
    common = (folder / "model", "--data", folder / "data")
    for command in (("eval", *common), ("init", *common, "--samples", 2, "--out", folder / "a")):
        status, _, error = run(*command, "--max-length", 65)
        assert status == 0 and "--max-length 65 is beyond the model's context of 64" in error
    assert "context" not in run("eval", *common, "--max-length", 64)[2]


def test_one_step_is_refused_before_any_work(folder: Path, run: Run) -> None:
    train = ("train", folder / "model", "--data", folder / "data", "--samples", 2, "--steps", 1, "--out", folder / "a")
    status, said, error = run(*train)
    assert status == 2 and "learning rate 0" in error and "--warmup-ratio 0" in error
    assert "calibrating" not in said and not (folder / "a").exists()
    assert run(*train, "--warmup-ratio", 0)[0] == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("eval --max-new-tokens 3", "--max-new-tokens does nothing here"),
        ("eval --split train", "--split does nothing here: --data is one file"),
        ("generate --prompt w3 --top-p 0.5", "--top-p does nothing here"),
        ("generate --prompt w3 --seed 5", "--seed does nothing here"),
        ("init --scale-rule alpha/r_i --samples 2", "--scale-rule does nothing here"),
        ("train --epochs 3 --steps 2 --samples 2", "--epochs does nothing here"),
    ],
)
def test_flags_that_do_nothing_are_told(command: str, said: str, folder: Path, run: Run) -> None:
    name, *flags = command.split()
    data = () if name == "generate" else ("--data", folder / "data" / "train.jsonl")
    out = ("--out", folder / "a") if name in ("init", "train") else ()
    status, _, error = run(name, folder / "model", *data, *out, *flags)
    assert status == 0 and said in error, error


# ---- float32 for work, float64 for what judges ----


def test_commands_that_work_compute_in_float32(folder: Path, run: Run) -> None:
    common = (folder / "model", "--data", folder / "data", "--samples", 2)
    assert run("train", *common, "--steps", 2, "--out", folder / "a")[0] == 0
    assert json.loads((folder / "a" / "manifest.json").read_text())["dtype"] == "float32"
    rows = [json.loads(line) for line in (folder / "data" / "test.jsonl").read_text().splitlines()]
    found = json.loads(run("eval", folder / "model", "--data", folder / "data", "--json")[1])["loss"]
    exact = {dtype: tr.evaluate(tr.load_model(folder / "model", dtype), rows).loss for dtype in ("float32", "float64")}
    assert found == exact["float32"] != exact["float64"]
    assert run("trace", *common, "--steps", 1, "--no-noise", "--out", folder / "t")[0] == 0
    assert tr.summarize(folder / "t").said["dtype"] == "float64"
    assert str(tr.load_model(folder / "model").dtype) == "float64"


# ---- the prompt as in training ----


def test_the_template_of_the_adapter_is_used(chat: Path, run: Run) -> None:
    turns = [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w5"}]
    data = lines(chat / "c.jsonl", *[{"messages": turns}] * 4)
    common = ("train", chat / "model", *SHORT, "--lr", 0.05)
    assert run(*common, "--data", data, "--out", chat / "talks")[0] == 0
    pairs = lines(chat / "p.jsonl", *[{"prompt": "w3 ", "completion": "w5"}] * 4)
    assert run(*common, "--data", pairs, "--out", chat / "plain")[0] == 0
    assert run(*common, "--data", pairs, "--template", "chat", "--out", chat / "pairs")[0] == 0

    for name in ("talks", "pairs"):
        found, error = asked(run, chat, "--adapter", chat / name)
        assert found["template"] == "chat" and "the template chat, as when the adapter was trained" in error
        assert found["tokens"] == greedy(chat, [8, 3, 4, 9], chat / name)
    found, error = asked(run, chat, "--adapter", chat / "plain")
    assert found["template"] == "plain" and "template" not in error  # nothing to say: it is as in training
    assert found["tokens"] == greedy(chat, [3, 4], chat / "plain")
    found, error = asked(run, chat, "--adapter", chat / "talks", "--template", "plain")
    assert found["template"] == "plain" and "was trained with the template chat, not plain" in error

    loss = [run("eval", chat / "model", "--data", pairs, "--adapter", chat / "talks", "--json", *flags)
            for flags in ((), ("--template", "chat"), ("--template", "plain"))]  # fmt: skip
    assert loss[0][1] == loss[1][1] != loss[2][1] and "as when the adapter was trained" in loss[0][2]


def test_a_chat_model_without_its_template_gets_a_hint(chat: Path, run: Run) -> None:
    found, error = asked(run, chat)
    assert "this model has a chat template" in error and "--chat" in error and found["tokens"] == greedy(chat, [3, 4])
    for flags in (("--chat",), ("--template", "plain"), ("--template", "chat")):
        assert "has a chat template" not in asked(run, chat, *flags)[1]


def test_the_system_message(chat: Path, run: Run) -> None:
    for flags in (("--system", "w6"), ("--system", "w6", "--chat"), ("--system", "w6", "--template", "chat")):
        found, _ = asked(run, chat, *flags)
        assert found["tokens"] == greedy(chat, [7, 6, 8, 3, 4, 9]) and found["template"] == "chat"
    generate = ("generate", chat / "model", "--prompt", "w3")
    for flags, said in (
        (("--system", "w6", "--template", "plain"), "--system is a part of a chat"),
        (("--chat", "--template", "alpaca"), "--chat is --template chat"),
    ):
        status, _, error = run(*generate, *flags)
        assert status == 2 and said in error
    (chat / "model" / "tokenizer_config.json").unlink()
    status, _, error = run(*generate, "--system", "w6")
    assert status == 2 and "no chat template" in error


def test_the_system_message_and_the_task_of_training_are_told(chat: Path, run: Run) -> None:
    turns = [{"role": role, "content": word} for role, word in (("system", "w6"), ("user", "w3"), ("assistant", "w5"))]
    data = lines(chat / "c.jsonl", *[{"messages": turns}] * 4)
    common = ("train", chat / "model", *SHORT)
    assert run(*common, "--data", data, "--out", chat / "talks")[0] == 0
    assert "trained with the system message 'w6'" in asked(run, chat, "--adapter", chat / "talks")[1]
    assert "system message" not in asked(run, chat, "--adapter", chat / "talks", "--system", "w6")[1]
    data = lines(chat / "s.jsonl", *[{"sentence": "w3", "label": 1}] * 4)
    assert run(*common, "--data", data, "--task", "sst2", "--out", chat / "task")[0] == 0
    assert "prompts of the form 'sst2 sentence: {sentence}'" in asked(run, chat, "--adapter", chat / "task")[1]


def test_what_is_noted_of_prompts_may_be_spoilt(trained: Path, run: Run) -> None:
    facts = trained / "run" / "adapter" / "tlora.json"
    values = json.loads(facts.read_text())
    assert values["facts"]["prompting"] is None  # rows of tokens: nobody knows
    for wrong in ({"template": "none such"}, {"unknown": 1}, {"template": "plain", "task": 3}, 3):
        values["facts"]["prompting"] = wrong
        facts.write_text(json.dumps(values))
        status, _, error = run("generate", trained / "model", "--prompt", "w3", "--adapter", trained / "run")
        assert status == 2 and "what it says of prompts is damaged" in error, error


def test_an_empty_response_is_told(folder: Path, run: Run) -> None:
    first = greedy(folder, [3, 4])[0]
    config = {"eos_token": f"w{first}", "added_tokens_decoder": {}}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "model" / "tokenizer.json").read_text())
    token = {"id": first, "content": f"w{first}", "special": True, "normalized": False}
    tokenizer["added_tokens"] = [{**token, "single_word": False, "lstrip": False, "rstrip": False}]
    (folder / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    status, said, error = run("generate", folder / "model", "--prompt", "w3 w4")
    assert status == 0 and said.strip() == "" and "the response is empty: 1 token(s)" in error
