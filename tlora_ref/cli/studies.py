"""What `study` and `report` print of a study's results."""

from __future__ import annotations

from tlora_ref.cli.screen import Screen, warn
from tlora_ref.study import Results
from tlora_ref.study.tables import LEGEND, cost, diverged, heading, paper_said, quality


def show_results(screen: Screen, results: Results) -> None:
    """Quality beside the paper's figures, then cost."""
    screen.say(heading(results))
    if not results.runs:
        return
    screen.table("Quality", *quality(results))
    screen.say(LEGEND)
    if said := paper_said(results):
        screen.say(said)
    screen.table("Cost", *cost(results))
    warn(*(f"diverged: {line}" for line in diverged(results)))
