"""`check`: a Python implementation, run over generated cases of every stage it has."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.kit.results import EXPECTED, FAILED, SKIPPED, UNEXPECTED, KitReport
from tlora_ref.oracle.kit.run import check_implementation

#: Failing checks that are printed before the rest is only counted.
SHOWN = 6
#: A smallest case of more characters than this is left to --json.
LONGEST = 2000


def check(
    target: Annotated[
        str,
        typer.Argument(help="pkg.module:name, or file.py:name; without a name, the module itself.", show_default=False),
    ],
    config: o.Config = None,
    profile: o.Profile = "paper",
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, tf32, bfloat16 or float16; by default what its attribute `dtype` says."),
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Check this stage alone; may be repeated.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="ID=REASON: this check is expected to fail; may be repeated.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Cases a check.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the cases.", min=0)] = 0,
    json: o.Json = False,
) -> None:
    """Check a Python implementation over generated cases of its stages: exit status 1 if it is wrong."""
    screen = Screen(json)
    silent = redirect_stdout(sys.stderr)  # what the candidate prints is no part of the report
    with silent:
        implementation = loaded(target)
    with screen.progress("checks", lines=False) as advance, silent:
        report = check_implementation(
            implementation,
            profile=profile,
            dtype=dtype,
            expected_failures=o.pairs("--expect", expect),
            stages=stage or None,
            examples=examples,
            seed=seed,
            progress=advance,
        )
    show(screen, report)
    finish(screen, report)


def loaded(target: str) -> object:
    """The implementation that a target names. ConfigError where there is none; the user's own code is run for it."""
    place, _, name = target.partition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ConfigError(f"{place}: cannot be imported ({type(error).__name__}: {error})") from error
    if not name:
        return module
    if not hasattr(module, name):
        raise ConfigError(f"{place}: has no {name}; it has {', '.join(n for n in dir(module) if n[0] != '_')}")
    found = getattr(module, name)
    if not inspect.isclass(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{target}: cannot be made without arguments ({type(error).__name__}: {error}). Name an instance instead"
        ) from error


def _from_path(place: str) -> ModuleType:
    """`pkg.module`, found from where the command is run too."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(place)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. Give pkg.module:name or file.py:name")
    name = f"candidate_{path.stem}"  # so that a file called json.py hides nothing
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def show(screen: Screen, report: KitReport) -> None:
    """The table of stages, what fails with its smallest case, and the verdict."""
    screen.say(f"profile {report.profile}, judged as {report.dtype}")
    screen.table("Stages", ("stage", "paper", "result", "checks", "which"), report.rows())
    wrong = [r for r in report.results if r.status in (FAILED, UNEXPECTED)]
    for result in wrong[:SHOWN]:
        screen.say(result.line())
    if len(wrong) > SHOWN:
        screen.say(f"and {len(wrong) - SHOWN} more that fail (--json lists them)")
    for result in report.of(EXPECTED):
        screen.say(f"{result.id}: fails as expected ({result.why})")
    first = next((r for r in wrong if r.stage == report.first_failing and len(r.reproduce) <= LONGEST), None)
    if first is not None:
        screen.say(f"\nthe smallest case of {first.id}, to run again:\n\n{first.reproduce}")
    if report.passed:
        skipped = len(report.of(SKIPPED))
        screen.say("right: every check of what is there passes" + (f" ({skipped} not checked)" if skipped else ""))
    elif report.first_failing is None:
        screen.say("nothing new is wrong, but the list of expected failures is out of date, or nothing passed")
    else:
        cause = report.cause or "unknown"
        screen.say(f"wrong: the first failing stage is {report.first_failing}; likely cause: {cause}")


def finish(screen: Screen, report: KitReport) -> None:
    """The verdict for a machine, and as the exit status. ConfigError if there is none: every check was skipped."""
    if len(report.of(SKIPPED)) == len(report.results):
        raise ConfigError("nothing could be checked: no stage or output that was asked for is there")
    screen.finish(report.to_dict())
    if not report.passed:
        raise typer.Exit(1)
