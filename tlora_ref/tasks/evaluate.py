"""The scores of the five kinds of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlora_ref.data import Row, response_text
from tlora_ref.errors import OutputError, reason
from tlora_ref.files import write_text
from tlora_ref.tasks.answering import Answering
from tlora_ref.tasks.scoring import chosen_option, final_number
from tlora_ref.tasks.task import Task
from tlora_ref.training import likelihoods

#: Kinds whose responses other tools or a judge score.
SCORED_ELSEWHERE = ("code", "chat")
#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """How many of how many rows are right."""

    right: int
    rows: int

    @property
    def share(self) -> float:
        return self.right / self.rows


@dataclass(frozen=True)
class TaskResult:
    """What a model makes of a task.

    Attributes
    ----------
    scores : "accuracy" (of the generated answer, or of the class), for tasks of options also "accuracy_likelihood" and
        "accuracy_likelihood_per_token"; empty for the kinds in SCORED_ELSEWHERE
    rows, responses : what was answered, and the answers
    """

    task: Task
    scores: dict[str, Accuracy]
    rows: list[Row]
    responses: list[str]


def evaluate_task(
    answering: Answering, task: Task, rows: Sequence[Row], *, progress: Progress | None = None
) -> TaskResult:
    """The scores of a task's rows (as `task_rows` makes them), and the responses.

    A classification head answers by its likeliest class. Any other model generates, and where the task has options
    their likelihoods are compared too.

    Raises
    ------
    DataError
        for a row that cannot be a prompt, or a response that is none of the model's classes.
    """
    rows = list(rows)
    if answering.form == "classes":
        responses, right = _classified(answering, rows)
        return TaskResult(task, {"accuracy": Accuracy(right, len(rows))}, rows, responses)
    scores = _by_likelihood(answering, rows, progress) if task.choices else {}
    responses = _responses(answering, rows, task.stop, progress)
    is_right = {"understanding": _same, "choice": _option(task), "maths": _number}.get(task.kind)
    if is_right is not None:
        scores["accuracy"] = Accuracy(sum(map(is_right, responses, rows)), len(rows))
    return TaskResult(task, scores, rows, responses)


def exact_matches(answering: Answering, rows: Sequence[Row], *, progress: Progress | None = None) -> Accuracy:
    """How many greedy responses are the rows' own, surrounding blanks aside."""
    responses = _responses(answering, rows, (), progress)
    right = sum(text.strip() == response_text(row).strip() for text, row in zip(responses, rows, strict=True))
    return Accuracy(right, len(rows))


def write_responses(path: Path, result: TaskResult) -> None:
    """The responses for the tools that score them, one JSON object a line: for code, the sample format of human-eval
    and evalplus (task_id, completion), else id, prompt, response and reference. OutputError if it cannot be written."""
    try:
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _lines(result))
        write_text(path, lines)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error


def _responses(
    answering: Answering, rows: Sequence[Row], stop: tuple[str, ...], progress: Progress | None
) -> list[str]:
    """Greedy responses, row by row."""
    responses = []
    for done, row in enumerate(rows, 1):
        responses.append(answering.text(row, stop))
        if progress is not None:
            progress("generating", done, len(rows))
    return responses


def _same(text: str, row: Row) -> bool:
    """The response is the row's own, blanks at its ends aside."""
    return text.strip() == str(row.values["completion"]).strip()


def _option(task: Task) -> Callable[[str, Row], bool]:
    """The first option that the response names is the right one."""

    def right(text: str, row: Row) -> bool:
        found = chosen_option(text, task.choices)
        return found is not None and task.choices[found] == row.answer

    return right


def _number(text: str, row: Row) -> bool:
    """The response's final number is the row's."""
    found = final_number(text)
    return found is not None and found == final_number(str(row.values["completion"]))


def _classified(answering: Answering, rows: list[Row]) -> tuple[list[str], int]:
    """The names of the classes that a classification head finds, and how many are right."""
    view, samples = answering.model.watching([]), answering.samples(rows)
    found = [int(view(sample["input_ids"]).logits.argmax()) for sample in samples]
    right = [index == sample["labels"] for index, sample in zip(found, samples, strict=True)]
    return [answering.model.config.labels[index] for index in found], sum(right)


def _by_likelihood(answering: Answering, rows: list[Row], progress: Progress | None) -> dict[str, Accuracy]:
    """Accuracy of the likeliest response, by its log-probability and by that divided by its tokens."""
    whole, each = 0, 0
    for done, row in enumerate(rows, 1):
        options = [replace(row, values={**row.values, "completion": text}) for text in row.extra["responses"]]
        found = likelihoods(answering.model, answering.samples(options))
        sums, means = [p for p, _ in found], [p / n for p, n in found]
        whole += sums.index(max(sums)) == row.extra["label"]
        each += means.index(max(means)) == row.extra["label"]
        if progress is not None:
            progress("weighing options", done, len(rows))
    named = {"accuracy_likelihood": whole, "accuracy_likelihood_per_token": each}
    return {name: Accuracy(right, len(rows)) for name, right in named.items()}


def _lines(result: TaskResult) -> Iterator[dict[str, Any]]:
    for row, response in zip(result.rows, result.responses, strict=True):
        if result.task.kind == "code":
            yield {"task_id": row.extra["id"], "completion": response}
        else:
            yield {
                "id": row.extra["id"],
                "prompt": row.values["prompt"],
                "response": response,
                "reference": row.values["completion"],
            }
