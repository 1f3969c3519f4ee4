"""`tlora-ref report`: what a folder that the other commands left says, for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.curves import show_losses
from tlora_ref.cli.screen import Screen
from tlora_ref.cli.studies import show_results
from tlora_ref.pages import check_page, write_page
from tlora_ref.reports import by_kind, by_layer, html_page, losses_said
from tlora_ref.study import holds_results, read_results
from tlora_ref.study.page import html_page as studies_page
from tlora_ref.study.tables import to_dict


def run(
    folder: Annotated[
        Path, typer.Argument(help="What train, init, trace or study wrote, or any PEFT adapter.", show_default=False)
    ],
    html: Annotated[Path | None, typer.Option(help="Write it as a page too, a name in .html.")] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Say what a run, an adapter, a trace or a study holds.

    Budget, ranks by layer, scales, updates, losses; of a run that was stopped, how to go on.
    """
    screen = Screen(json)
    page = None if html is None else check_page(html, overwrite=overwrite)
    if folder.is_dir() and holds_results(folder):
        show_studies(screen, folder, page)
        return
    summary = tr.summarize(folder)
    screen.say(f"{folder}: {summary.kind}")
    screen.listed([f"{name} {value}" for name, value in summary.said.items()])
    screen.table("Rank by layer", *by_layer({name: str(module.rank) for name, module in summary.modules.items()}))
    screen.table("By kind of module", *by_kind(summary.modules))
    for line in losses_said(summary):
        screen.say(line)
    show_losses(screen, summary.losses)
    if page is not None:
        written(screen, page, html_page(summary, named(folder)))
    screen.finish(summary.to_dict())


def show_studies(screen: Screen, folder: Path, page: Path | None) -> None:
    """Every study that was run into the folder."""
    found = read_results(folder)
    for results in found:
        show_results(screen, results)
    if page is not None:
        written(screen, page, studies_page(found, named(folder)))
    screen.finish({"studies": [to_dict(results) for results in found]})


def written(screen: Screen, page: Path, text: str) -> None:
    """The page is there, and that is said."""
    write_page(page, text)
    screen.say(f"wrote {page}")


def named(folder: Path) -> str:
    """The folder's own name, however it was given."""
    return folder.resolve().name
