"""`chat`: what the model is asked at each turn, and what is kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run

#: system: w7 TEXT; user: w8 TEXT w9 (which opens the answer); assistant: TEXT w10.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}w7 {{ m.content }} {% elif m.role == 'user' %}"
    "w8 {{ m.content }} w9 {% else %}{{ m.content }} w10 {% endif %}{% endfor %}"
)


@pytest.fixture
def model(folder: Path) -> Path:
    config = {"chat_template": TEMPLATE, "eos_token": "w10"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder / "model"


@pytest.fixture
def say(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    def say(*lines: str, flags: tuple[object, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", model, "--max-new-tokens", 3, *flags)

    return say


def answer(model: Path, ids: list[int]) -> list[int]:
    """The model's own tokens after `ids`, without the end token."""
    return [
        i
        for i in tr.load_model(model, "float32").generate(ids, max_new_tokens=3, eos_token_id=10)[len(ids) :]
        if i != 10
    ]


def test_each_turn_is_asked_after_all_before_it(model: Path, say) -> None:
    status, said, error = say("w3 w4", "", "w5", flags=("--system", "w6"))
    first = answer(model, [7, 6, 8, 3, 4, 9])
    second = answer(model, [7, 6, 8, 3, 4, 9, *first, 10, 8, 5, 9])
    assert status == 0
    assert [line.split() for line in said.splitlines()] == [[f"w{i}" for i in made] for made in (first, second)]
    assert error.count("cut at its greatest length") == sum(len(made) == 3 for made in (first, second))


def test_save_reset_and_quit(model: Path, say, tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    status, said, _ = say(
        "w3", f"/save {file}", "w4", f"/save {file}", "/reset", "w3", "/quit", "w5", flags=("--system", "w6")
    )
    lines = said.splitlines()
    assert status == 0 and lines[0] == lines[-1] and len(lines) == 6
    assert lines[1::2] == [f"wrote {file}: 3 messages", f"wrote {file}: 5 messages", lines[-1]]
    (row,) = tr.DataSource(file).rows()  # what is saved can be trained on
    messages = row.values["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[2]["content"] == lines[0] and list(tmp_path.glob(".kept*")) == []


def test_json_is_the_conversation(say) -> None:
    status, said, _ = say("w3", flags=("--json",))
    messages = json.loads(said)["messages"]
    assert status == 0 and messages[0] == {"role": "user", "content": "w3"} and messages[1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (("/save",), "needs the name of a file"),
        (("/save x.jsonl",), "nothing was said yet"),
        (("w3", "/save /nowhere/x.jsonl"), "/nowhere"),
        (("/exit",), "there is no /exit: /save FILE"),
        (("w3 " * 70,), "leave no room in the model's context of 64"),
    ],
)
def test_from_a_pipe_a_bad_line_ends_it(say, lines: tuple[str, ...], match: str) -> None:
    status, _, error = say(*lines)
    assert status == 2 and match in error


def test_another_file_is_not_written_over(say, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    status, _, error = say("w3", f"/save {tmp_path / 'mine'}")
    assert status == 2 and "is there already" in error and (tmp_path / "mine").read_text() == "mine"


def test_a_model_without_a_chat_template(folder: Path, run: Run) -> None:
    status, said, error = run("chat", folder / "model")
    assert status == 2 and "no chat template" in error and said == ""


def test_on_a_terminal_a_bad_line_is_said_and_the_talk_goes_on(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(["/exit", "w3", "/quit"])
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("builtins.input", lambda _: next(given))
    status, said, error = run("chat", model, "--max-new-tokens", 3)
    assert status == 0 and "there is no /exit" in error
    assert said.splitlines()[1].split() == [f"w{i}" for i in answer(model, [8, 3, 9])]
