"""Printing: tables and bars on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tlora_ref.adapter import Plan


class Screen:
    """Where a command prints. With `as_json`, people's lines are dropped and `finish` prints one JSON object."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console()
        self.rich = self.console.is_terminal and not as_json

    def say(self, text: str) -> None:
        """A line for a person."""
        if not self.as_json:
            print(text, flush=True)

    def finish(self, values: dict[str, Any]) -> None:
        """The result for a machine."""
        if self.as_json:
            print(json.dumps(values, indent=2))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table: drawn on a terminal, columns padded with blanks elsewhere. The first column is text."""
        if self.as_json:
            return
        if self.rich:
            table = Table(title=title)
            for i, column in enumerate(columns):
                table.add_column(column, justify="right" if 0 < i < len(columns) - 1 else "left")
            for row in rows:
                table.add_row(*row)
            self.console.print(table)
            return
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
        print(title)
        for row in [columns, *rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
            print("  " + "  ".join([*cells, row[-1]]).rstrip())

    @contextmanager
    def progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A function to call with (done, total): a bar on a terminal, a few lines elsewhere."""
        if self.rich:
            columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.console) as bar:
                task = bar.add_task(what)
                yield lambda done, total: bar.update(task, completed=done, total=total)
            return

        def line(done: int, total: int) -> None:
            if done == total or done % max(1, total // 4) == 0:
                self.say(f"{what}: {done} of {total}")

        yield line


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
