"""Renders chat templates in a process of its own: run as a script by `chat_template.py`, it imports nothing of ours.

A template comes with a checkpoint and is not trusted. It runs in Jinja's immutable sandbox, here with bounded memory
and without the right to write files; who started this process also bounds its time. Requests and replies are lines of
JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

#: Bytes of address space that a template may fill, and characters that it may write.
MEMORY = 2**30
LONGEST = 2**24
#: Seconds after which this process gives up by itself, should nobody be left to stop it.
SECONDS = 15


class Writing:
    """What has been rendered so far, and which characters stand between `{% generation %}` tags."""

    def __init__(self) -> None:
        self.length = 0
        self.spans: list[tuple[int, int]] = []


class GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}`: renders what is inside, and notes where it stands."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Any) -> nodes.Node:
        """The tag and all up to its end, as a call of `_noted`."""
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_noted"), [], [], inside).set_lineno(line)

    def _noted(self, caller: Callable[[], str]) -> str:
        text, writing = caller(), self.environment.writing  # type: ignore[attr-defined]
        writing.spans.append((writing.length, writing.length + len(text)))
        return text


class Dictionary:
    """`dict` of a template: makes dictionaries, and is no class whose attributes lead anywhere."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        """As that of a dict."""
        return dict.fromkeys(*values)


class GuardedNamespace(Namespace):
    """`namespace` of a template, for attributes that do not begin with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        values = dict(*rest, **named)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is, where Jinja's own filter escapes what HTML has a meaning for."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise jinja2.exceptions.TemplateError(message)


@lru_cache(maxsize=4)
def compiled(source: str) -> jinja2.Template:
    """The template, in the environment that transformers gives it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        raise_exception=raise_exception,
        strftime_now=lambda form: datetime.now().strftime(form),
        dict=Dictionary(),
        namespace=GuardedNamespace,
    )
    return environment.from_string(source)


def rendered(source: str, variables: dict[str, Any]) -> dict[str, Any]:
    """{"text", "spans"} of one conversation, or {"error"}, or {"limit"} that it went beyond."""
    try:
        template = compiled(source)
    except (jinja2.exceptions.TemplateError, RecursionError, ValueError) as error:
        return {"error": f"is not valid Jinja: {error}"}
    try:
        writing = template.environment.writing = Writing()  # type: ignore[attr-defined]
        parts = []
        for part in template.generate(**variables):
            parts.append(part)
            writing.length += len(part)
            if writing.length > LONGEST:
                return {"limit": f"wrote more than {LONGEST:,} characters"}
        return {"text": "".join(parts), "spans": writing.spans}
    except MemoryError:
        return {"limit": f"asked for more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # whatever a template may bring about is its own failure
        return {"error": f"failed on these messages: {str(error) or type(error).__name__}"}


def main() -> None:
    """Replies to each line of standard input until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    alarm = getattr(signal, "alarm", lambda seconds: None)  # Windows has none
    for line in sys.stdin:
        alarm(SECONDS)
        request = json.loads(line)
        replies = [rendered(request["template"], variables) for variables in request["jobs"]]
        print(json.dumps(replies), flush=True)
        alarm(0)


if __name__ == "__main__":
    main()
