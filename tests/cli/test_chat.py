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


def test_without_a_chat_template_each_line_is_asked_by_itself(folder: Path, run: Run, say, tmp_path: Path) -> None:
    (folder / "model" / "tokenizer_config.json").unlink()
    status, said, error = say("w3 w4", "w5", f"/save {tmp_path / 'kept.jsonl'}")
    answers = [answer(folder / "model", ids) for ids in ([3, 4], [5])]
    assert status == 0 and "each line by itself" in error and "it has no chat template" in error
    assert [line.split() for line in said.splitlines()[:2]] == [[f"w{i}" for i in made] for made in answers]
    rows = [row.values for row in tr.DataSource(tmp_path / "kept.jsonl").rows()]
    assert [(row["prompt"], row["completion"].split()) for row in rows] == [
        ("w3 w4", [f"w{i}" for i in answers[0]]),
        ("w5", [f"w{i}" for i in answers[1]]),
    ]
    status, _, error = say("w3", flags=("--system", "w6"))
    assert status == 2 and "no chat template" in error


def test_lines_end_as_the_prompts_did_that_the_adapter_was_trained_on(folder: Path, run: Run, say) -> None:
    (folder / "model" / "tokenizer_config.json").unlink()
    rows = [{"prompt": f"w{i} w{i + 1} w9 ", "completion": "w5"} for i in range(9)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    making = ("--samples", 2, "--rank", 2, "--steps", 1, "--warmup-ratio", 0, "--lr", 0)
    assert run("train", folder / "model", "--data", folder / "pairs.jsonl", "--out", folder / "out", *making)[0] == 0
    status, said, error = say("w3 w4", flags=("--adapter", folder / "out"))
    assert status == 0 and "each line is given ' w9 ' at its end" in error
    assert said.split() == [f"w{i}" for i in answer(folder / "model", [3, 4, 9])]


def test_a_named_template_is_taken_where_it_is_asked_for(model: Path, say) -> None:
    status, said, error = say("w3", "w5", flags=("--template", "plain"))
    assert status == 0 and "each line by itself, without those before it (--template plain)" in error
    assert [line.split() for line in said.splitlines()] == [[f"w{i}" for i in answer(model, ids)] for ids in ([3], [5])]
    status, _, error = say("w3", flags=("--template", "plain", "--system", "w6"))
    assert status == 2 and "--system is a part of a chat" in error


def test_a_turn_computes_what_is_new(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of the turns before are kept; the tokens are those of a conversation computed anew."""
    ready, tokenizer = tr.load_model(model, "float32"), tr.load_tokenizer(model)
    read: list[int] = []
    hidden_states = type(ready).hidden_states

    def counted(self, ids, *arguments):
        read.append(ids.shape[1])
        return hidden_states(self, ids, *arguments)

    monkeypatch.setattr(type(ready), "hidden_states", counted)
    chat = tr.Chat(tr.Responder(ready, tokenizer, max_new_tokens=3), "w6")
    asked = [7, 6]
    for text, word in (("w3 w4", [3, 4]), ("w5", [5]), ("w2 w1", [2, 1])):
        kept = 0 if len(asked) == 2 else len(asked) - 1  # all but the end token and what comes after it
        asked += [8, *word, 9]
        read.clear()
        response = chat.say(text)
        assert response.text.split() == [f"w{i}" for i in answer(model, asked)]
        assert chat.prompt_tokens == len(asked) and read[0] == len(asked) - chat.kept_tokens
        assert chat.kept_tokens in (kept, kept - 1)  # an answer that was cut: its last token was never read
        asked += [*(i for i in response.tokens if i != 10), 10]
    chat.reset()
    assert chat.say("w3 w4").text.split() == [f"w{i}" for i in answer(model, [7, 6, 8, 3, 4, 9])]


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
