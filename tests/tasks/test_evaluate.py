"""Tasks scored from Python: what is right is counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.test_eval_tasks import own_response, rows, saved
from tlora_ref.errors import DataError
from tlora_ref.tasks import exact_matches, write_responses


@pytest.fixture
def answering(tmp_path: Path) -> tr.Answering:
    model, tokenizer = saved(tmp_path / "model", "llama")
    return tr.Answering(model, tokenizer, max_new_tokens=3)


def test_scores_responses_and_progress(answering: tr.Answering, tmp_path: Path) -> None:
    task = tr.load_task("gsm8k")
    said = own_response(answering.model, answering.tokenizer, "Question: w5\nAnswer: ", 3)
    data = rows(tmp_path / "d.jsonl", {"question": "w5", "answer": "#### 7"}, {"question": "w5", "answer": "#### 8"})
    told: list[tuple[str, int, int]] = []
    result = tr.evaluate_task(answering, task, tr.task_rows(task, data), progress=lambda *entry: told.append(entry))
    assert result.responses == [said, said] and told == [("generating", 1, 2), ("generating", 2, 2)]
    assert (result.scores["accuracy"].right, result.scores["accuracy"].rows) == (0, 2)  # the words hold no number
    write_responses(tmp_path / "out.jsonl", result)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["response"] for line in lines] == [said, said] and lines[1]["reference"] == "#### 8"


def test_a_right_number_is_counted(answering: tr.Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tr.Answering, "text", lambda self, row, stop=(): "so it is 7.0")
    task = tr.load_task("gsm8k")
    data = rows(tmp_path / "d.jsonl", {"question": "w5", "answer": "#### 7"}, {"question": "w5", "answer": "#### 8"})
    accuracy = tr.evaluate_task(answering, task, tr.task_rows(task, data)).scores["accuracy"]
    assert (accuracy.right, accuracy.rows, accuracy.share) == (1, 2, 0.5)


def test_exact_matches_and_what_can_be_answered(answering: tr.Answering, tmp_path: Path) -> None:
    said = own_response(answering.model, answering.tokenizer, "w5 w6", 3)
    data = rows(
        tmp_path / "d.jsonl",
        {"prompt": "w5 w6", "completion": f" {said} "},
        {"prompt": "w5 w6", "completion": f"{said} w3"},
        {"prompt": "w5 " * 90, "completion": "w3"},
    )
    found = tr.DataSource(data).rows()
    names = [row.where for row in found]
    assert answering.answerable(found, too_long=names[1:]) == found[:2]  # the third prompt itself is too long
    assert answering.answerable(found, unlabelled=names[:1]) == found[1:]
    matches = exact_matches(answering, found[:2])
    assert (matches.right, matches.rows) == (1, 2)


def test_an_empty_option_cannot_be_weighed(answering: tr.Answering, tmp_path: Path) -> None:
    """It would be left out, and the options after it would stand in its place."""
    data = rows(tmp_path / "d.jsonl", *({"prompt": "w5", "completion": text} for text in ("w3", " ", "w4")))
    options = tr.DataSource(data).rows()
    with pytest.raises(DataError, match="a response cannot be weighed"):
        answering.samples(options)
    assert len(answering.samples([options[0], options[2]])) == 2
