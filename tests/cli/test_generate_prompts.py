"""`generate --prompts`, stop strings, and how tokens are chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run

TEMPLATE = "{% for m in messages %}{{ m.content }} {% if m.role == 'user' %}w9 {% endif %}{% endfor %}"


def rows_of(folder: Path, *rows: Any) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def own(folder: Path, ids: list[int], n: int = 4, **options: Any) -> list[int]:
    model = tr.load_model(folder / "model", "float32")
    return [int(i) for i in model.generate(ids, max_new_tokens=n, **options)[len(ids) :]]


def words(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_each_prompt_gets_the_models_own_answer(folder: Path, run: Run, size: int) -> None:
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
    file = rows_of(
        folder,
        {"prompt": "w3 w4", "id": 7},
        {"messages": [{"role": "user", "content": "w5"}], "id": "é"},
        "w6 w7 w8",
        {"messages": [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w1"}]},
        {"prompt": "w3 " * 62},
    )
    status, said, _ = run(
        "generate",
        folder / "model",
        "--prompts",
        file,
        "--out",
        folder / "o",
        "--max-new-tokens",
        4,
        "--batch-size",
        size,
    )
    found = [json.loads(line) for line in (folder / "o").read_text(encoding="utf-8").splitlines()]
    asked = [[3, 4], [5, 9], [6, 7, 8], [5, 9], [3] * 62]
    assert status == 0 and f"wrote {folder / 'o'}: 5 responses, 5 cut at the greatest length" in said
    assert [row["response"] for row in found] == [words(own(folder, ids, 2 if len(ids) == 62 else 4)) for ids in asked]
    assert found[0]["prompt"] == "w3 w4" and [row.get("id") for row in found[:2]] == [7, "é"]
    assert {row["finish"] for row in found} == {"length"} and list(folder.glob(".o*")) == []


def test_a_file_that_is_there_is_replaced_only_when_asked(folder: Path, run: Run) -> None:
    (out := folder / "precious").write_text("kept")
    common = ("generate", folder / "model", "--prompts", rows_of(folder, "w3"), "--out", out, "--max-new-tokens", 1)
    status, _, error = run(*common)
    assert status == 2 and "already exists" in error and "--overwrite" in error and out.read_text() == "kept"
    assert run(*common, "--overwrite")[0] == 0 and json.loads(out.read_text())["prompt"] == "w3"


def test_draws_do_not_depend_on_the_batch(folder: Path, run: Run) -> None:
    file = rows_of(folder, *({"prompt": "w3 w4"} for _ in range(4)))
    common = ("generate", folder / "model", "--prompts", file, "--temperature", 2, "--top-k", 20, "--seed", 5)
    found = []
    for size in (1, 3):
        assert run(*common, "--out", folder / f"o{size}", "--batch-size", size)[0] == 0
        found.append([json.loads(line)["response"] for line in (folder / f"o{size}").read_text().splitlines()])
    assert found[0] == found[1] and len(set(found[0])) > 1
    assert (
        found[0][1] == words(own(folder, [3, 4], 62, temperature=2, top_k=20, seed=6)) or len(found[0][1].split()) < 62
    )


@pytest.mark.parametrize("size", [1, 2])
def test_an_end_and_a_stop_in_a_file(folder: Path, run: Run, size: int) -> None:
    free = own(folder, [3, 4], 6)
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({"eos_token": f"w{free[3]}"}), encoding="utf-8")
    file = rows_of(folder, {"prompt": "w3 w4"}, {"prompt": "w5"})
    flags = ("--prompts", file, "--overwrite", "--out", folder / "o", "--max-new-tokens", 6, "--batch-size", size)
    assert run("generate", folder / "model", *flags)[0] == 0
    first = json.loads((folder / "o").read_text().splitlines()[0])
    n = free.index(free[3])
    assert (first["response"], first["finish"]) == (words(free[:n]), "end")
    stop = f" w{free[1]}"
    assert run("generate", folder / "model", *flags, "--stop", stop)[0] == 0
    first = json.loads((folder / "o").read_text().splitlines()[0])
    assert (first["response"], first["finish"]) == (words(free[:1]), "stop")


def test_a_stop_is_not_printed(folder: Path, run: Run) -> None:
    free = own(folder, [3, 4], 6)
    common = ("generate", folder / "model", "--prompt", "w3 w4", "--max-new-tokens", 6)
    said = run(*common, "--stop", f" w{free[2]}", "--stop", "zz")[1]
    at = free.index(free[2])
    assert said == words(free[:at]) + "\n"
    found = json.loads(run(*common, "--stop", f"w{free[2]}", "--json")[1])
    assert found["finish"] == "stop" and found["tokens"] == free[: at + 1]


def test_a_stop_that_begins_in_the_prompt_leaves_no_text(folder: Path, run: Run) -> None:
    free = own(folder, [3, 4], 6)
    common = ("generate", folder / "model", "--prompt", "w3 w4", "--max-new-tokens", 6)
    flags = ("--stop", f"w4 {words(free[:2])}")
    assert run(*common, *flags)[1] == "\n"
    found = json.loads(run(*common, *flags, "--json")[1])
    assert (found["text"], found["tokens"], found["finish"]) == ("", free[:2], "stop")


def test_the_penalty_counts_without_a_temperature(folder: Path, run: Run) -> None:
    common = ("generate", folder / "model", "--prompt", "w3 w4", "--max-new-tokens", 9, "--json")
    found = json.loads(run(*common, "--repetition-penalty", 1.9)[1])["tokens"]
    assert found == own(folder, [3, 4], 9, repetition_penalty=1.9) != own(folder, [3, 4], 9)
    assert "--top-k does nothing here" in run(*common, "--top-k", 3)[2]


@pytest.mark.parametrize(
    ("rows", "flags", "match"),
    [
        ([{"prompt": "w1"}], (), "--out FILE"),
        ([{"prompt": "w1"}], ("--out", "{prompts}"), "is the file of the prompts"),
        ([{"prompt": "w1"}], ("--out", "{folder}/no/o"), "--out"),
        ([{"prompt": "w1"}], ("--out", "{folder}/o", "--prompt", "w2"), "one of the two"),
        ([{"prompt": "w1"}, {"prompt": 3}], ("--out", "{folder}/o"), 'line 2: field "prompt"'),
        ([{"prompt": "w1", "response": "x"}], ("--out", "{folder}/o"), '"response" is where the response will be'),
        ([{"text": "w1"}], ("--out", "{folder}/o"), "a row of text is no prompt"),
        ([{"prompt": "w1"}, {"prompt": "w1 " * 64}], ("--out", "{folder}/o"), "line 2: 64 tokens leave no room"),
        ([{"prompt": "w1"}], ("--out", "{folder}/o", "--stop", ""), "a stop string is empty"),
        ([{"prompt": "w1"}], ("--out", "{folder}/o", "--field", "prompt=q"), 'field "q" is missing'),
    ],
)
def test_what_is_refused(folder: Path, run: Run, rows: list[Any], flags: tuple[str, ...], match: str) -> None:
    file = rows_of(folder, *rows)
    flags = tuple(flag.format(prompts=file, folder=folder) for flag in flags)
    status, said, error = run("generate", folder / "model", "--prompts", file, *flags)
    assert status == 2 and match in error and said == "" and not (folder / "o").exists()
    assert json.loads(file.read_text().splitlines()[0]) == rows[0]
