"""The fuzz harness: sound folders, one file damaged at a time, read in this process: only the library's errors come.

A fault is another exception, a run of more than SECONDS, more than MEMORY beyond what the process held, or a file
opened outside the folder (but by a study, which a person writes: it may name any folder). Each kind (exception and
place) is kept once, with the damaged folder and what happened.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import resource
import shutil
import signal
import sys
import sysconfig
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.mutate import damage
from tests.faults.subject import Subject, fresh
from tests.faults.subjects import SUBJECTS
from tlora_ref.data import chat_template
from tlora_ref.errors import TLoRAError

SECONDS = 20
MEMORY = 2 * 2**30
ROOT = Path(__file__).resolve().parents[2]


class TooLong(BaseException):
    """Raised by the clock; not an Exception, so that nothing on the way swallows it."""


class Watch:
    """Which files are opened while `folder` is set, by Python's audit events."""

    folder: Path | None = None
    outside: list[str]

    def __init__(self) -> None:
        self.outside = []
        prefixes = {
            sys.prefix,
            sys.base_prefix,
            *sysconfig.get_paths().values(),
            str(ROOT / "tlora_ref"),
            "/proc",
            "/sys",
            "/dev",
        }
        self.allowed = tuple(str(Path(p).resolve()) for p in prefixes)
        self.listed = {str(Path(p or ".").resolve()) for p in sys.path}  # an import looks through them
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.listdir", "os.scandir"):
            return
        if not isinstance(arguments[0], str | bytes):
            return
        with contextlib.suppress(OSError, ValueError):
            path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace"))
            at = str(path.resolve()) if path.is_absolute() else str((Path.cwd() / path).resolve())
            listed = event != "open" and at in self.listed
            if not listed and not at.startswith((str(self.folder), *self.allowed)):
                self.outside.append(at)


@dataclass
class Tally:
    """What came of the inputs so far."""

    inputs: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, str], str] = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.inputs.total()} inputs, {self.refused.total()} refused, {len(self.faults)} kinds of fault"


@functools.cache
def held_at_first() -> int:
    """Bytes of address space; asked for once, so that what inputs leave behind adds up to a fault."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """A clock, and a ceiling on the address space: MEMORY beyond what the process held at first.

    The clock ticks every second, and its ticks are counted: a process that is stopped for a while hears of it once.
    """
    held = held_at_first()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ticks = 0

    def tick(*_: object) -> None:
        nonlocal ticks
        ticks += 1
        if ticks >= SECONDS:
            raise TooLong

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def place(error: BaseException) -> str:
    """The deepest line of the library, or of anything, that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/tlora_ref/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"


def tried(subject: Subject, folder: Path, watch: Watch) -> tuple[str, BaseException | None]:
    """What came of reading `folder`: "accepted", "refused" or "fault" with the exception."""
    watch.outside.clear()
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings(), limits():
            warnings.simplefilter("ignore")
            watch.folder = folder.resolve()
            subject.use(folder)
    except TLoRAError:
        return "refused", None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a compiled library is no Exception
        return "fault", error
    finally:
        watch.folder = None
    if watch.outside and not subject.anywhere:
        return "fault", AssertionError(f"opened {watch.outside[0]}")
    return "accepted", None


def damageable(subject: Subject, folder: Path) -> list[Path]:
    """The files of a sound folder that may be damaged."""
    return sorted({path for pattern in subject.files for path in folder.glob(pattern) if path.is_file()})


def fuzz(seconds: float, seed: int, names: list[str], scratch: Path, keep: Path | None = None) -> Tally:
    """Damage and read for so many seconds, the subjects in turn; the same seed damages in the same way."""
    rng, tally, watch = random.Random(seed), Tally(), Watch()
    sound, work = {name: scratch / "sound" / name for name in names}, scratch / "work"
    for name in names:  # made where it will be damaged: some files name the folder that they are in
        with contextlib.redirect_stdout(io.StringIO()):
            shutil.copytree(fresh(SUBJECTS[name], work), sound[name])
        outcome, error = tried(SUBJECTS[name], work, watch)
        assert outcome == "accepted", f"{name} is not sound: {outcome} {error!r}"
    files = {name: damageable(SUBJECTS[name], sound[name]) for name in names}
    weights = [SUBJECTS[name].weight for name in names]
    chat_template.SECONDS = 1.0  # not five: a template without end comes often here
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = rng.choices(names, weights)[0]
        subject = SUBJECTS[name]
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(sound[name], work)
        victim = rng.choice(files[name])
        target = work / victim.relative_to(sound[name])
        target.write_bytes(damage(victim.name, victim.read_bytes(), rng))
        outcome, error = tried(subject, work, watch)
        tally.inputs[name] += 1
        tally.refused[name] += outcome == "refused"
        if error is not None:
            kind = (type(error).__name__, place(error))
            if kind not in tally.faults:
                tally.faults[kind] = f"{name}, {victim.name}: {kind[0]} at {kind[1]}: {str(error)[:200]!r}"
                print(f"fault: {tally.faults[kind]}", flush=True)
                if keep is not None:
                    kept = keep / f"{len(tally.faults):03}-{name}"
                    shutil.copytree(work, kept, dirs_exist_ok=True)
                    said = "".join(traceback.format_exception(error))[-4000:]
                    (kept / "WHAT.txt").write_text(said, encoding="utf-8", errors="backslashreplace")
    return tally
