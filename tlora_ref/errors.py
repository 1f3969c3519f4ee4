"""The one family of exceptions.

Every message says what is wrong, where, what was expected and how to mend it. The command line prints the message alone
and exits with status 2; a caller who wants to catch whatever this library refuses catches `TLoRAError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


class TLoRAError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(TLoRAError):
    """A setting, switch, flag or model configuration is unknown, contradictory or out of range."""


class CheckpointError(TLoRAError):
    """A model or adapter folder is missing something, is damaged, or holds what cannot be used."""


class DataError(TLoRAError):
    """A dataset, a row or a sample is not what was expected."""


class ShapeError(TLoRAError):
    """An array has the wrong shape or dtype."""


class GraphError(TLoRAError):
    """The autograd graph was asked for something it does not hold."""


class NumericsError(TLoRAError):
    """A number is not finite, or a quantity is undefined for these numbers."""


class DeviceError(TLoRAError):
    """The device asked for, or the library that drives it, is not there."""


class OutputError(TLoRAError):
    """A result cannot be written where it was asked for."""


def reason(error: BaseException) -> str:
    """What stopped something, in one line for the brackets of a message: the system's words without their numbers, and
    of a parser's many lines what it says and where."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    mark = getattr(error, "problem_mark", None)  # YAML's
    if mark is not None:
        problem = getattr(error, "problem", None) or getattr(error, "context", None)
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    said = re.sub(r" \(os error \d+\)|\[Errno -?\d+\] ", "", str(error))
    return " ".join(said.split()) or type(error).__name__


def did_you_mean(word: object, known: Iterable[str], usual: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown word: " (did you mean X?)", or "" where nothing known is near.

    Parameters
    ----------
    known : the words there are
    usual : {what others call it, in small letters: what it is called here}
    """
    said, words = str(word).strip().lower(), list(known)
    by_small = {name.lower(): name for name in words}
    close = difflib.get_close_matches(said, by_small, n=1)
    found = (usual or {}).get(said) or by_small.get(said) or (by_small[close[0]] if close else None)
    return f" (did you mean {found}?)" if found else ""
