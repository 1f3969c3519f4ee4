"""The folder of a training run: what stands in it from the first step on, and what is said when it is left early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

import tlora_ref as tr
from tlora_ref.calibration import CALIBRATION_FILE
from tlora_ref.checkpoint import INITIAL, TRAINED
from tlora_ref.cli.output import (
    CONFIG_FILE,
    MANIFEST_FILE,
    check_folder,
    clear_run,
    data_facts,
    manifest,
    resume_line,
    write_beside,
)
from tlora_ref.cli.stopping import told
from tlora_ref.errors import CheckpointError, ConfigError, OutputError, reason
from tlora_ref.oracle.traces.digests import samples_digest
from tlora_ref.training import HISTORY_FILE, METRICS_FILE, STATE_FILE, STEPS_FOLDER, check_step
from tlora_ref.training.tensorboard import FOLDER as TENSORBOARD
from tlora_ref.training.tensorboard import TensorBoard

CONVENTIONS = "AdamW as torch (decoupled decay, bias correction); schedule as transformers (first warm-up step: lr 0)"
START, END = INITIAL, TRAINED
#: What a run leaves in its folder, and --overwrite clears.
PARTS = (STATE_FILE, STEPS_FOLDER, HISTORY_FILE, METRICS_FILE, MANIFEST_FILE, CONFIG_FILE, START, END, TENSORBOARD)
#: What --resume goes on from.
RESUMABLE = (STATE_FILE, CALIBRATION_FILE)
#: Flags that a resumed run may change. The data are compared by digest, not by path.
FREE = frozenset(
    ("out", "data", "valid", "resume", "overwrite", "save-every", "eval-every", "log-every", "steps", "epochs", "hold")
) | {"keep-last", "from-step", "log", "recompute"}


def check_run_folder(out: Path, *, overwrite: bool, resume: bool, replace: bool = False, **inputs: Path | None) -> None:
    """`check_folder`; where something that can be resumed stands in the way, the refusal says so."""
    if resume and overwrite:
        raise ConfigError("--resume continues what --out holds and --overwrite replaces it: give one of the two")
    try:
        check_folder(out, overwrite=overwrite or resume, replace=replace, **inputs)
    except OutputError as error:
        resumable = (CALIBRATION_FILE,) if replace else RESUMABLE  # init goes on with a calibration alone
        if any(out.joinpath(name).is_file() for name in resumable) and not (overwrite or resume):
            raise OutputError(f"{error}, or go on with what is there: --resume") from None
        raise


def check_from_step(out: Path, step: int | None, *, resume: bool) -> None:
    """`--from-step` names a step that the run in `out` kept, and the run is resumed."""
    if step is None:
        return
    if not resume:
        raise ConfigError("--from-step says where a run goes on: it needs --resume, and a run that has begun")
    check_step(out, step)


def check_calibration(out: Path) -> None:
    """CheckpointError unless a calibration that was stopped can be resumed."""
    if not (out / CALIBRATION_FILE).is_file():
        raise CheckpointError(f"{out / CALIBRATION_FILE}: no calibration to resume. Start without --resume")


def run_facts(
    context: typer.Context,
    base: tr.Model,
    adapter: tr.Adapter,
    settings: tr.TrainSettings,
    samples: Sequence[Mapping[str, Any]],
    file: Path,
    indices: list[int] | None,
) -> dict[str, Any]:
    """All that decides the run, for its manifest."""
    given = context.params["adapter"]
    return manifest(
        context,
        model=str(context.params["model"]),
        dtype=str(base.dtype),
        device=base.device.name,
        data=data_facts(file),
        samples_sha256=samples_digest(samples),
        adapter=None if given is None else str(given),
        init=adapter.init,
        seed=adapter.seed,
        calibration=indices,
        settings=settings.to_dict(),
        conventions=CONVENTIONS,
        plan=None if adapter.plan is None else adapter.plan.to_dict(),
    )


def begin_folder(out: Path, context: typer.Context, adapter: tr.Adapter, facts: dict[str, Any]) -> None:
    """OUT with the adapter the run starts from; an earlier run that is overwritten goes first.

    The calibration that the adapter was made of goes last: while it is there, it is what --resume goes on from.
    """
    try:
        clear_run(out, PARTS)
    except OSError as error:
        raise OutputError(f"{out}: cannot be cleared ({reason(error)})") from error
    write_beside(out, context, facts)
    tr.save_peft(adapter, out / START, base_model=context.params["base_model_id"] or facts["model"], facts=facts)
    (out / CALIBRATION_FILE).unlink(missing_ok=True)


def say_stopped(out: Path, context: typer.Context, stop: KeyboardInterrupt, *, begun: bool) -> int:
    """Says after Ctrl-C or SIGTERM what was kept and how to go on; the exit status."""
    what, status = told(stop)
    go_on = f"To go on:\n  {resume_line(context)}"
    if (out / CALIBRATION_FILE).is_file():
        kept = f"the calibration so far is in {out / CALIBRATION_FILE}. {go_on}"
    elif begun and (out / STATE_FILE).is_file():
        kept = f"the state is in {out / STATE_FILE}. {go_on}"
    elif begun:
        kept = f"no step was made. {go_on}"
    else:
        kept = "nothing was written, so there is nothing to resume"
    print(f"stopped by {what}: {kept}", file=sys.stderr)
    return status


def check_log(log: str | None, out: Path) -> None:
    """ConfigError for a --log that cannot be written, before anything is read."""
    if log not in (None, "tensorboard"):
        raise ConfigError(f"--log {log}: expected tensorboard (OUT/{METRICS_FILE} is written in any case)")
    if log is not None:
        TensorBoard(out)


@contextmanager
def event_log(log: str | None, out: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What is told of each step for --log; all of it is on the disk at the end, however that comes."""
    if log is None:
        yield lambda entry: None
        return
    board = TensorBoard(out)
    try:
        yield board
    finally:
        board.close()
