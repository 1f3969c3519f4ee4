"""`eval --task`: the scores of the five kinds of tasks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlora_ref.cli.output import check_file
from tlora_ref.cli.show import Screen
from tlora_ref.cli.work import DataChoice, sample_form
from tlora_ref.data import Row, Task, Tokenizer, chosen_option, cut, encode_prompt, encode_rows, final_number
from tlora_ref.errors import ConfigError, OutputError
from tlora_ref.training import likelihoods
from tlora_ref.transformer import Model


@dataclass(frozen=True)
class Answering:
    """A model that answers rows greedily."""

    model: Model
    tokenizer: Tokenizer
    template: str
    max_new_tokens: int

    def fits(self, row: Row, longest: int | None) -> bool:
        """Whether the model can read a row's prompt and has room for a token of response."""
        form, limit = sample_form(self.model), longest or self.model.context
        return form != "classes" and (
            limit is None or len(encode_prompt(row, self.tokenizer, self.template, form)) < limit
        )

    def text(self, row: Row, stop: tuple[str, ...] = ()) -> str:
        """The response to a row's prompt, without special tokens, up to the first stop or the end of the context."""
        form = sample_form(self.model)
        prompt = encode_prompt(row, self.tokenizer, self.template, form)
        room = self.max_new_tokens
        if form == "causal" and self.model.context is not None:
            room = max(1, min(room, self.model.context - len(prompt)))
        ids = self.model.generate(prompt, max_new_tokens=room, eos_token_id=self.tokenizer.eos_token_id)
        made = ids[1:] if form == "seq2seq" else ids[len(prompt) :]  # a decoder of its own begins with its start token
        return cut(self.tokenizer.decode(made.tolist()), stop)


def check_write(source: DataChoice, write: Path | None) -> None:
    """ConfigError if responses are to be written without a task, or a task needs them written; before any work."""
    if write is not None and source.task is None:
        raise ConfigError("--write keeps the responses of a --task: name one")
    if write is None and source.task is not None and source.task.kind in ("code", "chat"):
        raise ConfigError(f"task {source.task.name}: its responses are scored elsewhere: name a file, --write FILE")
    check_file(write, "--write")


def run_task(
    screen: Screen, answering: Answering, source: DataChoice, rows: list[Row], write: Path | None
) -> dict[str, Any]:
    """The scores of a task's rows, and its responses in `write`, one JSON object a line."""
    task = source.task
    assert task is not None
    if task.kind in ("code", "chat") and write is None:
        raise ConfigError(
            f"task {task.name}: its responses are scored elsewhere: say where to write them, --write FILE"
        )
    if sample_form(answering.model) == "classes":
        responses, accuracy = _classified(answering, source, rows)
        if write is not None:
            _keep(screen, write, task, rows, responses)
        return _said(screen, len(rows), {"accuracy": accuracy})
    scores: dict[str, float] = {}
    if task.choices:
        scores |= _by_likelihood(screen, answering, source, rows)
    responses = []
    with screen.progress("generating") as progress:
        for done, row in enumerate(rows, 1):
            responses.append(answering.text(row, task.stop))
            progress(done, len(rows))
    right = {"understanding": _same, "choice": _option(task), "maths": _number}.get(task.kind)
    if right is not None:
        scores["accuracy"] = sum(map(right, responses, rows)) / len(rows)
    if write is not None:
        _keep(screen, write, task, rows, responses)
    return _said(screen, len(rows), scores)


def _keep(screen: Screen, write: Path, task: Task, rows: list[Row], responses: list[str]) -> None:
    _write(write, _lines(task, rows, responses))
    screen.say(f"wrote {write}: {len(rows)} responses")


def _said(screen: Screen, rows: int, scores: dict[str, float]) -> dict[str, Any]:
    names = {
        "accuracy": "accuracy",
        "accuracy_likelihood": "accuracy by likelihood",
        "accuracy_likelihood_per_token": "accuracy by likelihood a token",
    }
    for key, value in scores.items():
        screen.say(f"{names[key]} {value:.1%} ({round(value * rows)} of {rows})")
    return {"rows": rows, **scores}


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


def _encoded(answering: Answering, source: DataChoice, rows: list[Row]) -> list[dict[str, Any]]:
    """A sample a row, none left out."""
    return encode_rows(
        rows,
        answering.tokenizer,
        template=source.template,
        form=sample_form(answering.model),
        class_names=getattr(answering.model.config, "labels", ()),
    )[0]


def _classified(answering: Answering, source: DataChoice, rows: list[Row]) -> tuple[list[str], float]:
    """The names of the classes that a classification head finds, and its accuracy."""
    view, samples = answering.model.watching([]), _encoded(answering, source, rows)
    found = [int(view(sample["input_ids"]).logits.argmax()) for sample in samples]
    right = [index == sample["labels"] for index, sample in zip(found, samples, strict=True)]
    return [answering.model.config.labels[index] for index in found], sum(right) / len(right)


def _by_likelihood(screen: Screen, answering: Answering, source: DataChoice, rows: list[Row]) -> dict[str, float]:
    """Accuracy of the likeliest response, by its log-probability and by that divided by its tokens."""
    whole, each = 0, 0
    with screen.progress("weighing options") as progress:
        for done, row in enumerate(rows, 1):
            options = [replace(row, values={**row.values, "completion": text}) for text in row.extra["responses"]]
            found = likelihoods(answering.model, _encoded(answering, source, options))
            sums, means = [p for p, _ in found], [p / n for p, n in found]
            whole += sums.index(max(sums)) == row.extra["label"]
            each += means.index(max(means)) == row.extra["label"]
            progress(done, len(rows))
    return {"accuracy_likelihood": whole / len(rows), "accuracy_likelihood_per_token": each / len(rows)}


def _lines(task: Task, rows: list[Row], responses: list[str]) -> Iterator[dict[str, Any]]:
    """What the tools that score responses read: for code, the sample format of human-eval and evalplus."""
    for row, response in zip(rows, responses, strict=True):
        if task.kind == "code":
            yield {"task_id": row.extra["id"], "completion": response}
        else:
            yield {
                "id": row.extra["id"],
                "prompt": row.values["prompt"],
                "response": response,
                "reference": row.values["completion"],
            }


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    """One JSON object a line, beside and then renamed."""
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
