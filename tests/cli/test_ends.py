"""Commands end what they generate at every end token: the checkpoint's, listed in either file, and the tokenizer's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run


def free_run(folder: Path) -> list[int]:
    """What the model says to w3 w7 if nothing ends it."""
    return [int(i) for i in tr.load_model(folder / "model").generate([3, 7], max_new_tokens=8, eos_token_id=-1)[2:]]


def write(folder: Path, name: str, **values: object) -> None:
    file = folder / "model" / name
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**before, **values}), encoding="utf-8")


def ends_at(folder: Path, where: str, end: int) -> None:
    """Makes `end` an end token in one of the places, another token in the others."""
    write(folder, "config.json", eos_token_id=[29, end] if where == "config" else 29)
    write(folder, "tokenizer_config.json", eos_token=f"w{end}" if where == "tokenizer" else "w28")
    if where == "generation_config":
        write(folder, "generation_config.json", eos_token_id=[29, end])


PLACES = ("config", "generation_config", "tokenizer")


@pytest.mark.parametrize("where", PLACES)
def test_generate(where: str, folder: Path, run: Run) -> None:
    said = free_run(folder)
    at = next(i for i in range(1, 8) if said[i] not in said[:i])
    ends_at(folder, where, said[at])
    flags = ("--prompt", "w3 w7", "--max-new-tokens", "8", "--json")
    status, out, _ = run("generate", folder / "model", *flags)
    assert status == 0 and json.loads(out)["tokens"] == said[: at + 1]


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("flag", [("--generate",), ("--task", "maths.yaml")])
def test_eval(where: str, flag: tuple[str, ...], folder: Path, run: Run) -> None:
    """A response that is right up to its end is right: what would follow the end is not read."""
    said = free_run(folder)
    at = next(i for i in range(1, 8) if said[i] not in said[:i])
    ends_at(folder, where, said[at])
    row = {"prompt": "w3 w7", "completion": " ".join(f"w{i}" for i in said[:at])}
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    task = (
        "kind: understanding\nprompt: '{prompt}'\nresponse: '{choice}'\ngold: '{completion}'\nchoices: ['w0', '%s']\n"
    )
    (folder / "maths.yaml").write_text(task % row["completion"], encoding="utf-8")
    flags = tuple(str(folder / f) if f.endswith(".yaml") else f for f in flag)
    status, out, error = run("eval", folder / "model", "--data", folder / "rows.jsonl", *flags, "--json")
    assert status == 0, error
    assert json.loads(out)["accuracy"] == 1.0
