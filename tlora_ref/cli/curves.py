"""The losses of a run as a curve of characters, on a terminal alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlora_ref.cli.screen import Screen
from tlora_ref.reports import loss_lines

WIDEST, HEIGHT = 100, 15
COLOURS = ("blue", "orange")


def show_losses(screen: Screen, losses: Sequence[Mapping[str, Any]]) -> None:
    """Training and held-out losses by step, by plotext; where that is not installed, how to get it."""
    if not screen.rich or len(losses) < 2:
        return
    try:
        import plotext
    except ModuleNotFoundError:
        screen.say("(a loss curve here: pip install 'tlora-ref[curves]')")
        return
    braille = "utf" in (screen.console.encoding or "").lower()
    plotext.clear_figure()
    plotext.theme("clear")
    for (name, line), colour in zip(loss_lines(losses).items(), COLOURS, strict=False):
        steps, values = zip(*line, strict=True)
        plotext.plot(list(steps), list(values), label=name, color=colour, marker="braille" if braille else "*")
    plotext.xlabel("step")
    plotext.limit_size(False, False)  # its own idea of the terminal is another
    plotext.plotsize(min(screen.console.width, WIDEST), HEIGHT)
    drawn = plotext.build()
    screen.say(plotext.uncolorize(drawn) if screen.console.no_color else drawn)
