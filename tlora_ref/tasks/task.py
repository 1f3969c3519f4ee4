"""Tasks: what a row of a benchmark asks and how it is answered. They are data, in tasks.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tlora_ref.data.records import dataset_file, records
from tlora_ref.data.rows import Row
from tlora_ref.data.templates import fill
from tlora_ref.errors import ConfigError, DataError, did_you_mean
from tlora_ref.files import read_yaml

#: What benchmarks are called elsewhere, in small letters.
TASKS_ELSEWHERE = {
    **{"sst-2": "sst2", "mnli-m": "mnli", "mnli_matched": "mnli", "social_iqa": "siqa", "social_i_qa": "siqa"},
    **{"socialiqa": "siqa", "human_eval": "humaneval", "human-eval": "humaneval", "obqa": "openbookqa"},
    **dict.fromkeys(("arc-c", "arc-e", "arc_challenge", "arc_easy", "arc-challenge", "arc-easy"), "arc"),
    **{"gsm": "gsm8k", "gsm-8k": "gsm8k", "mt-bench": "chat", "mtbench": "chat", "mt_bench": "chat"},
}
KINDS = ("understanding", "choice", "maths", "code", "chat")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes
    ----------
    kind : one of KINDS; it decides the score
    prompt, response : templates over a row's own fields; in `response`, {choice} is the right option
    choices : the options, for understanding and choice
    gold : template of the right option's name or number
    stop : texts that end a generated answer
    id : the field that names a row in what is written
    """

    name: str
    kind: str
    about: str
    prompt: str
    response: str
    choices: tuple[str, ...] = ()
    gold: str = ""
    stop: tuple[str, ...] = ()
    id: str = ""

    def answer(self, option: str, values: Mapping[str, str]) -> str:
        """The response that gives an option."""
        return fill(self.response, {**values, "choice": option})


@cache
def tasks() -> dict[str, Task]:
    """The tasks that come with the library, by name."""
    text = resources.files("tlora_ref.tasks").joinpath("tasks.yaml").read_text(encoding="utf-8")
    return {name: _task("tasks.yaml", name, values) for name, values in yaml.safe_load(text).items()}


def load_task(name: str) -> Task:
    """A task by its name, or from a YAML file of one task of its own. ConfigError for anything else."""
    if name in tasks():
        return tasks()[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(name, tasks(), TASKS_ELSEWHERE)
        raise ConfigError(f'task "{name}" is unknown: expected one of {", ".join(tasks())}, or a .yaml file{hint}')
    return _task(str(path), path.stem, read_yaml(path))


def _task(where: str, name: str, values: Any) -> Task:
    """A task from what YAML says, checked."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {name} is not a task: expected kind, about, prompt and response")
    known = {f.name for f in fields(Task)} - {"name"}
    odd, missing = sorted(map(str, set(values) - known)), sorted({"kind", "prompt", "response"} - set(values))
    if odd or missing:
        raise ConfigError(f"{where}: {name}: unknown or missing {', '.join(odd + missing)}; a task has {sorted(known)}")
    if values["kind"] not in KINDS:
        raise ConfigError(f"{where}: {name}: kind is {values['kind']!r}, expected one of {', '.join(KINDS)}")
    lists = {k: values.get(k, []) for k in ("choices", "stop")}
    texts = {k: values.get(k, "") for k in known - set(lists)}
    for key, value in (lists | texts).items():
        entries, expected = (value, "a list of texts") if key in lists else ([value], "a text")
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ConfigError(
                f"{where}: {name}: {key} is {value!r:.60}, expected {expected} (quote yes, no and numbers)"
            )
    task = Task(name=name, choices=tuple(lists["choices"]), stop=tuple(lists["stop"]), **texts)
    if task.kind in ("understanding", "choice") and not (task.choices and task.gold):
        raise ConfigError(f"{where}: {name}: a task of the kind {task.kind} needs choices and gold")
    return task


def task_rows(task: Task, path: str | Path, split: str = "test") -> list[Row]:
    """Every row of a file as prompt and completion, ready for training and for evaluation.

    `row.answer` is the right option or the response; `row.extra` has "responses" (one an option), "label" (the right
    option's number, where there are options) and "id".

    Raises
    ------
    DataError
        for a field that the task needs and the row lacks, an unknown option, an empty file.
    """
    found = [_row(task, where, values) for where, values in records(dataset_file(path, split))]
    if not found:
        raise DataError(f"{path}: the file holds no rows")
    return found


def _row(task: Task, where: str, record: Any) -> Row:
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object with named fields, found {type(record).__name__}")
    values = {name: value if isinstance(value, str) else str(value) for name, value in record.items()}
    try:
        prompt = fill(task.prompt, values)
        option = _option(task, where, fill(task.gold, values)) if task.choices else ""
        completion = task.answer(option, values)
    except KeyError as error:
        raise DataError(
            f"{where}: task {task.name} needs the field {error}; the row has {', '.join(record)}"
        ) from error
    extra: dict[str, Any] = {
        "responses": [task.answer(name, values) for name in task.choices],
        "id": record.get(task.id, where),
    }
    if option:
        extra["label"] = task.choices.index(option)
    return Row("pair", {"prompt": prompt, "completion": completion}, where, option or completion, extra)


def _option(task: Task, where: str, gold: str) -> str:
    if gold in task.choices:
        return gold
    if gold.isdecimal() and int(gold) < len(task.choices):
        return task.choices[int(gold)]
    raise DataError(f'{where}: "{gold[:40]}" is no option of {task.name}: expected {", ".join(task.choices)}')
