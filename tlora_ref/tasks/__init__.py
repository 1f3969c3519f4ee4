"""Benchmarks: what a row asks, how a model answers it, and how answers are scored."""

from tlora_ref.tasks.answering import Answering
from tlora_ref.tasks.evaluate import (
    SCORED_ELSEWHERE,
    Accuracy,
    TaskResult,
    evaluate_task,
    exact_matches,
    write_responses,
)
from tlora_ref.tasks.scoring import chosen_option, cut, final_number
from tlora_ref.tasks.task import Task, load_task, task_rows, tasks

__all__ = [
    "SCORED_ELSEWHERE",
    "Accuracy",
    "Answering",
    "Task",
    "TaskResult",
    "chosen_option",
    "cut",
    "evaluate_task",
    "exact_matches",
    "final_number",
    "load_task",
    "task_rows",
    "tasks",
    "write_responses",
]
