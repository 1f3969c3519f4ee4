"""Printing: tables and bars on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tlora_ref.files import json_text
from tlora_ref.machine import linear_algebra

#: Columns of characters where there is no terminal that has its own; the fewest beside others that a text is put into;
#: and what stands before it where it is put below them.
WIDTH, LEAST_TEXT, BELOW = 80, 30, " " * 6


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

    def aside(self, text: str) -> None:
        """A line beside the matter, faint where there is colour."""
        if not self.as_json:
            self.console.print(Text(text, "dim"), soft_wrap=True)

    def listed(self, parts: Sequence[str]) -> None:
        """Facts for a person, a semicolon between them; where there is no terminal, in lines of its width."""
        if not self.as_json:
            whole = "; ".join(parts)
            print(whole if self.rich else "\n".join(_filled(whole, WIDTH)), flush=True)

    def finish(self, values: dict[str, Any]) -> None:
        """The result for a machine."""
        if self.as_json:
            print(json_text(values))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table: drawn on a terminal, columns padded with blanks elsewhere (see `padded`).

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
        print(title)
        for line in padded([columns, *rows], right):
            print(line)

    def passage(self, parts: Sequence[tuple[str, bool]], indent: str = "  ") -> None:
        """A text of which the parts with True are in colour, the tokens of it in two by turns; where there is no colour
        they stand between [[ and ]]. Line breaks are shown and made, other control characters shown."""
        if self.as_json:
            return
        text, broken = Text(indent), f"\n{indent}"
        coloured = self.rich and not self.console.no_color
        for at, (part, marked) in enumerate(parts):
            shown = "".join(f"\\n{broken}" if c == "\n" else c if c.isprintable() else ascii(c)[1:-1] for c in part)
            style = f"bold {('green', 'cyan')[at % 2]}" if marked and coloured else ""
            if marked and not coloured:
                if at == 0 or not parts[at - 1][1]:
                    shown = f"[[{shown}"
                if at + 1 == len(parts) or not parts[at + 1][1]:
                    whole = shown.removesuffix(broken)
                    shown = f"{whole}]]{shown[len(whole) :]}"
            text.append(shown, style)
        text.rstrip()
        if coloured:
            self.console.print(text)
        else:
            print(text.plain, flush=True)

    @contextmanager
    def stages(self) -> Iterator[Callable[[str, int, int], None]]:
        """`progress` for work of several stages, each of which says what it is: (what, done, total)."""
        with ExitStack() as stack:
            begun: dict[str, Advance] = {}

            def move(what: str, done: int, total: int) -> None:
                if what not in begun:
                    stack.close()
                    begun[what] = stack.enter_context(self.progress(what))
                begun[what](done, total)

            yield move

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


class StepLine:
    """Tells of every training step: on the bar of a terminal, or in a line every so many steps."""

    def __init__(self, screen: Screen, progress: Advance, total: int, every: int) -> None:
        self.screen, self.progress, self.total, self.every = screen, progress, total, every
        self.began = self.clock = time.perf_counter()
        self.seen = 0

    def show(self, entry: Mapping[str, Any]) -> None:
        """A step's entry of the history."""
        now, step = time.perf_counter(), entry["step"]
        pace = f"{entry['tokens'] / max(1e-9, now - self.clock):,.0f} scored tokens/s"
        self.clock = now
        self.seen += 1
        hours = (now - self.began) / 3600 / self.seen * (self.total - step)
        left = f"  {duration(hours)} left" if step < self.total else ""
        evaluated = "valid_loss" in entry  # which took time of its own, so that no pace can be told
        said = f"loss {entry['loss']:.4f}  lr {entry['lr']:.2e}  "
        said += f"held-out {entry['valid_loss']:.4f}" if evaluated else pace
        self.progress(step, self.total, said)
        if evaluated or (not self.screen.rich and (step % self.every == 0 or step in (1, self.total))):
            self.screen.say(f"step {step:>5} of {self.total}  {said}{left}")


def padded(rows: Sequence[Sequence[str]], right: Sequence[bool], width: int = WIDTH) -> Iterator[str]:
    """The lines of a table in plain characters; its first row is the head.

    A last column of text that does not fit into `width` takes several lines beside the others, or, where these leave it
    little room, lines below them.

    right : which columns stand at their right
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(right))]
    free = width - sum(2 + w for w in widths[:-1]) - 2
    fits = right[-1] or widths[-1] <= free
    for at, row in enumerate(rows):
        beside = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row[:-1], widths, right, strict=False)]
        if fits or at == 0:
            last = row[-1].rjust(widths[-1]) if right[-1] else row[-1]
            yield "  " + "  ".join([*beside, last]).rstrip()
        elif free < LEAST_TEXT:
            yield "  " + "  ".join(beside).rstrip()
            yield from _filled(row[-1], width - len(BELOW), BELOW)
        else:
            first, *more = _filled(row[-1], free) or [""]
            yield "  " + "  ".join([*beside, first]).rstrip()
            yield from (" " * (width - free) + line for line in more)


def _filled(text: str, width: int, indent: str = "") -> list[str]:
    """A text in lines, broken at its blanks alone."""
    return [indent + line for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)]


def _is_number(text: str) -> bool:
    return not text or text.replace(",", "").replace(".", "").replace("-", "").replace("e", "").isdigit()


def linear_algebra_line() -> str:
    """The BLAS library, its kernel and threads, for a person."""
    blas = linear_algebra()
    if not blas:
        return "a library that does not name itself"
    return f"{blas['library']} {blas['version']}, kernel {blas['kernel']}, threads {blas['threads']}"


def warn(*lines: str) -> None:
    """Lines that must be seen even when standard output is read by a machine."""
    for text in lines:
        print(f"note: {text}", file=sys.stderr, flush=True)


def counted(number: int, what: str) -> str:
    """How many of what: "1 sample", "32 samples"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def size(number: float) -> str:
    """Bytes for a person."""
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def seconds(number: float) -> str:
    """Seconds, as `duration` says them."""
    return duration(number / 3600)


def duration(hours: float) -> str:
    """Time for a person."""
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"
