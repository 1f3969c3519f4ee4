"""Printing: tables and bars on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tlora_ref.adapter import Plan
from tlora_ref.machine import linear_algebra


class Advance(Protocol):
    """What `Screen.progress` gives: to be called with how much of the work is done."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Screen:
    """Where a command prints. With `as_json`, people's lines are dropped and `finish` prints one JSON object."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(markup=False, highlight=False, emoji=False)
        self.rich = self.console.is_terminal and not as_json

    def say(self, text: str) -> None:
        """A line for a person."""
        if not self.as_json:
            print(text, flush=True)

    def finish(self, values: dict[str, Any]) -> None:
        """The result for a machine."""
        if self.as_json:
            print(json.dumps(_plain(values), indent=2, allow_nan=False))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table: drawn on a terminal, columns padded with blanks elsewhere.

        The first column is text, the last one too unless it holds numbers alone.
        """
        if self.as_json:
            return
        right = [0 < i < len(columns) - 1 or all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
        if self.rich:
            table = Table(title=title, title_justify="left")
            for i, column in enumerate(columns):
                table.add_column(column, justify="right" if right[i] else "left", no_wrap=right[i], overflow="fold")
            for row in rows:
                table.add_row(*row)
            self.console.print(table)
            return
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        print(title)
        for row in [columns, *rows]:
            cells = [cell.rjust(widths[i]) if right[i] else cell.ljust(widths[i]) for i, cell in enumerate(row)]
            print("  " + "  ".join(cells).rstrip())

    @contextmanager
    def progress(self, what: str, *, lines: bool = True) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere a line every quarter, or nothing with `lines` False."""
        if self.rich:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console) as bar:
                task = bar.add_task(what, total=None, note="")

                def move(done: int, total: int, note: str = "") -> None:
                    bar.update(task, completed=done, total=total, note=note)

                yield move
            return

        def line(done: int, total: int, note: str = "") -> None:
            if lines and (done == total or done % max(1, total // 4) == 0):
                self.say(f"{what}: {done} of {total}")

        yield line


def _is_number(text: str) -> bool:
    return not text or text.replace(",", "").replace(".", "").replace("-", "").replace("e", "").isdigit()


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def linear_algebra_line() -> str:
    """The BLAS library, its kernel and threads, for a person."""
    blas = linear_algebra()
    if not blas:
        return "a library that does not name itself"
    return f"{blas['library']} {blas['version']}, kernel {blas['kernel']}, threads {blas['threads']}"


def warn(text: str) -> None:
    """A line that must be seen even when standard output is read by a machine."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def show_plan(screen: Screen, plan: Plan) -> None:
    """The allocation table: module, S, rank, alpha, scale, and what a rule beyond Eq. 6 and 7 changed."""
    rows = [
        (
            module,
            f"{plan.sensitivity[module]:.3e}",
            str(plan.rank[module]),
            f"{plan.alpha[module]:.3f}",
            f"{plan.scale(module):.4f}",
            plan.notes.get(module, ""),
        )
        for module in plan.rank
    ]
    screen.table("Allocation (Eq. 6, 7)", ("module", "S", "r", "alpha", "scale", "note"), rows)
    total = len(plan.rank) * plan.r_init
    screen.say(
        f"profile {plan.profile}: ranks sum to {sum(plan.rank.values())} of {total}; B has "
        f"{plan.trainable_parameters:,} parameters (LoRA at rank {plan.r_init}, A and B: {plan.lora_parameters:,})"
    )


def size(number: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
