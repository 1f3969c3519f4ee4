"""Chat templates: untrusted Jinja, rendered by a process whose time and memory are bounded."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.errors import DataError, reason

#: Seconds after which a template that has not come to an end is stopped.
SECONDS = 5.0
#: Under which names a message's reasoning is passed; templates read the first, some the second.
REASONING = ("reasoning_content", "thinking", "reasoning")


#: A conversation to be rendered: messages, and whether the assistant's next turn is opened.
Job = tuple[Sequence[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Rendered:
    """A conversation's text, and the characters (from, to) that the template's `{% generation %}` tags enclose."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)


class ChatTemplate:
    """A chat template's Jinja source."""

    def __init__(self, source: str) -> None:
        self.source = source

    def outcomes(self, jobs: Sequence[Job], variables: Mapping[str, Any]) -> list[Rendered | DataError]:
        """What each conversation is rendered as, or why it cannot be; see `render`.

        A limit that one of them goes beyond is an error of all: the next may go beyond it too, and they would add up.
        """
        common = {"tools": None, "documents": None, **variables}
        requests = [
            {**common, "messages": [as_template_sees(m) for m in messages], "add_generation_prompt": opened}
            for messages, opened in jobs
        ]
        return [_outcome(reply) for reply in _WORKER.ask({"template": self.source, "jobs": requests})]

    def render(self, jobs: Sequence[Job], variables: Mapping[str, Any]) -> list[Rendered]:
        """The conversations as transformers renders them.

        Parameters
        ----------
        jobs : each (messages, whether the assistant's next turn is opened)
        variables : what the template sees beside them: named tokens, `tools`, `documents`, its own options

        Raises
        ------
        DataError
            if the template fails, tries to leave the sandbox, or takes more time or memory than a template may.
        """
        found: list[Rendered] = []
        for outcome in self.outcomes(jobs, variables):
            if isinstance(outcome, DataError):
                raise outcome
            found.append(outcome)
        return found


def _outcome(reply: Mapping[str, Any]) -> Rendered | DataError:
    if "limit" in reply:
        raise DataError(f"the chat template {reply['limit']}")
    if "error" in reply:
        return DataError(f"the chat template {reply['error']}")
    return Rendered(reply["text"], [(start, end) for start, end in reply["spans"]])


def as_template_sees(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what is null (`content` beside tool calls), its reasoning under every name that is read."""
    seen = {key: value for key, value in message.items() if value is not None}
    reasoning = next((seen[key] for key in REASONING if key in seen), None)
    return seen if reasoning is None else {"thinking": reasoning, **seen, "reasoning_content": reasoning}


class _Worker:
    """The process that renders: started when it is first needed, and again after it had to be stopped."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.owner = 0
        self.lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The reply to one request; DataError if it does not come in time."""
        try:
            line = json.dumps(request)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the chat template cannot be given these messages: {error}") from error
        with self.lock:
            process = self._running()
            assert process.stdin is not None and process.stdout is not None
            late = threading.Event()

            def too_late() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(SECONDS, too_late)
            timer.start()
            reply = ""
            try:
                with contextlib.suppress(OSError):  # a worker that died took its pipes along
                    process.stdin.write(line + "\n")
                    process.stdin.flush()
                    reply = process.stdout.readline()
            finally:
                timer.cancel()
                if not reply.endswith("\n"):
                    self.stop()
        if not reply.endswith("\n"):
            slow = f"did not come to an end within {SECONDS:g} seconds"
            raise DataError(f"the chat template {slow if late.is_set() else 'ended its process: too much memory?'}")
        replies: list[dict[str, Any]] = json.loads(reply)
        return replies

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            script = Path(__file__).with_name("chat_worker.py")
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", str(script)],  # -P: our files' names hide no library's
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            except OSError as error:
                raise DataError(f"no process can be started to render the chat template ({reason(error)})") from error
            self.owner = os.getpid()
        return self.process

    def stop(self) -> None:
        """Ends the process, if it is this one's (a forked process has a copy of this object, and no process)."""
        process, self.process = self.process, None
        if process is None or self.owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_WORKER = _Worker()
atexit.register(_WORKER.stop)
