"""What each flag takes, in words; a value that is none of it, wherever it was given, is told with what was expected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tlora_ref.errors import ConfigError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


@dataclass(frozen=True)
class Expected:
    """One flag or argument: the type of its value (or of each, where there are several), and its range.

    Attributes
    ----------
    kind : int, float, bool, str or Path
    least, most : the range of a number, both included; None for none
    count : how many values it takes at once
    many : it may be repeated
    """

    kind: type
    least: float | None = None
    most: float | None = None
    count: int = 1
    many: bool = False

    def __str__(self) -> str:
        said = WORDS[self.kind]
        if self.least is not None and self.most is not None:
            said += f" from {self.least:g} to {self.most:g}"
        elif self.least is not None:
            said += f" of at least {self.least:g}"
        elif self.most is not None:
            said += f" of at most {self.most:g}"
        return said if self.count == 1 else f"{self.count} values, each {said}"

    def takes(self, value: Any) -> bool:
        """Whether this is a value of the flag: a text as a command line has it, or what YAML makes of one."""
        if self.kind in (str, Path):
            return isinstance(value, str)
        if isinstance(value, bool) or self.kind is bool:
            return isinstance(value, bool) and self.kind is bool
        try:
            number = self.kind(value) if isinstance(value, str) else value
        except ValueError:
            return False
        if not isinstance(number, int | float) or (self.kind is int and not isinstance(number, int)):
            return False
        return (self.least is None or number >= self.least) and (self.most is None or number <= self.most)


def expected(callback: Callable[..., Any] | None) -> dict[str, Expected]:
    """{parameter: what it takes} of a command's function, by its annotations."""
    assert callback is not None, "every command has its function"
    found = {}
    for name, hint in get_type_hints(inspect.unwrap(callback), include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        inner, info = hint.__origin__, hint.__metadata__[0]
        several = next((part for part in (inner, *get_args(inner)) if get_origin(part) in (list, tuple)), None)
        kinds = [part for part in get_args(several or inner) if part is not NoneType] or [inner]
        many = get_origin(several) is list
        count = 1 if several is None or many else len(kinds)
        found[name] = Expected(kinds[0], getattr(info, "min", None), getattr(info, "max", None), count, many)
    return found


def check_given(takes: Mapping[str, Expected], flags: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """ConfigError for the first value of a command line that its flag does not take.

    flags : {parameter: how it is written, --batch-size or MODEL}
    given : {parameter: its text, or several}
    """
    for name, value in given.items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        for text in texts:
            if name in takes and isinstance(text, str) and not takes[name].takes(text):
                raise ConfigError(f"{flags[name]} {text}: expected {takes[name]}")


def value_of_file(where: str, value: Any, takes: Expected) -> Any:
    """A YAML value as its flag takes it; `where` is the file and the key, for the ConfigError if it takes no such.

    A flag that may be repeated takes one text, a list of them, or a mapping (`a: b` is a=b).
    """
    if takes.many:
        entries = value if isinstance(value, list) else list(value.values()) if isinstance(value, Mapping) else [value]
        # YAML takes `no` for false: only a switch, whose value it may well be, takes it
        plain = (str, int, float) if isinstance(value, Mapping) else (str,)
        if not all(isinstance(entry, plain) or type(entry) in (int, float) for entry in entries):
            raise ConfigError(
                f"{where} holds {value!r:.60}, expected a text or a list of texts (in quotes, if need be)"
            )
        return [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else [str(v) for v in entries]
    if takes.count > 1:
        if not isinstance(value, list) or len(value) != takes.count or not all(map(takes.takes, value)):
            raise ConfigError(f"{where} holds {value!r:.60}, expected a list of {takes}")
        return tuple(value)
    if isinstance(value, list | dict):
        raise ConfigError(f"{where} holds {value!r:.60}, expected one value: {takes}")
    if not takes.takes(value):
        quotes = " (in quotes)" if takes.kind in (str, Path) else ""
        raise ConfigError(f"{where} holds {value!r:.60}, expected {takes}{quotes}")
    return value
