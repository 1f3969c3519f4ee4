"""Which modules the loss hangs on, and the ranks they get: by kind of module, by layer, by task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from tlora_ref.study.results import Results
from tlora_ref.study.tables import Table

#: The last number of a module's path is its layer's, its last part the kind.
LAYER = re.compile(r"\d+(?!.*\d)")


def has_modules(results: Results) -> bool:
    """Whether the study kept what each module got (`per_module`)."""
    return bool(results.runs) and all("sensitivity" in run for run in results.runs)


def kind_of(module: str) -> str:
    """ "q_proj" of "model.layers.0.self_attn.q_proj"."""
    return module.rpartition(".")[2]


def layer_of(module: str) -> str:
    """ "0" of "model.layers.0.self_attn.q_proj"; "" where the path has no number."""
    found = LAYER.search(module)
    return found.group() if found else ""


def shares(runs: Sequence[Mapping[str, Any]], task: str) -> dict[str, float]:
    """{module: S_i over the mean S, which is also its scale at alpha = r_init}, the mean over the seeds of a task."""
    its = [run["sensitivity"] for run in runs if run["task"] == task]
    relative = [{m: S / np.mean(list(found.values())) for m, S in found.items()} for found in its]
    return {module: float(np.mean([found[module] for found in relative])) for module in relative[0]}


def ranks(runs: Sequence[Mapping[str, Any]], task: str) -> dict[str, float]:
    """{module: rank}, the mean over the seeds of a task."""
    its = [run["rank_by_module"] for run in runs if run["task"] == task]
    return {module: float(np.mean([found[module] for found in its])) for module in its[0]}


def by_group(results: Results) -> Table:
    """A row a kind and a row a layer: sensitivity over the mean of all modules, and the mean rank, for each task."""
    tasks = list(dict.fromkeys(run["task"] for run in results.runs))
    found = [(shares(results.runs, task), ranks(results.runs, task)) for task in tasks]
    modules = list(found[0][0])
    rows = []
    groups: tuple[tuple[str, Callable[[str], str]], ...] = (("", kind_of), ("layer ", layer_of))
    for label, group_of in groups:
        for group in dict.fromkeys(map(group_of, modules)):
            its = [module for module in modules if group_of(module) == group]
            cells = [f"{np.mean([values[module] for module in its]):.2f}" for pair in found for values in pair]
            rows.append([f"{label}{group}", *cells])
    heads = [head for task in tasks for head in (f"{task}: sensitivity", f"{task}: rank")]
    return ["modules", *heads], rows


def agreement(results: Results) -> tuple[float, float | None]:
    """Spearman's correlation of sensitivities over the modules: between seeds of one task, and between tasks.

    Means over all pairs of runs; the second is None with one task.
    """
    same: list[float] = []
    across: list[float] = []
    for first, second in combinations(results.runs, 2):
        modules = list(first["sensitivity"])
        one, other = ([float(run["sensitivity"][module]) for module in modules] for run in (first, second))
        found = float(stats.spearmanr(one, other).statistic)
        (same if first["task"] == second["task"] else across).append(found)
    return float(np.mean(same)), float(np.mean(across)) if across else None
