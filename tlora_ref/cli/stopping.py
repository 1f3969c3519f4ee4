"""Ctrl-C and SIGTERM: the same orderly end, each by its own name and exit status."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system or a shutdown sends it: whatever answers Ctrl-C answers it too."""


def heed_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def told(stop: KeyboardInterrupt) -> tuple[str, int]:
    """What stopped the command, for a person, and the exit status that a shell gives it."""
    return ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
