"""The folder of a training run: what stands in it from the first step on, and what is said when it is left early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

import tlora_ref as tr
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
from tlora_ref.errors import OutputError
from tlora_ref.training import HISTORY_FILE, STATE_FILE

CONVENTIONS = "AdamW as torch (decoupled decay, bias correction); schedule as transformers (first warm-up step: lr 0)"
START, END = "initial_adapter", "adapter"
#: What a run leaves in its folder, and --overwrite clears.
PARTS = (STATE_FILE, HISTORY_FILE, MANIFEST_FILE, CONFIG_FILE, START, END)
#: Flags that a resumed run may change. The data are compared by digest, not by path.
FREE = frozenset(
    ("out", "data", "valid", "resume", "overwrite", "save-every", "eval-every", "log-every", "steps", "epochs", "hold")
)


def check_run_folder(out: Path, *, overwrite: bool, **inputs: Path | None) -> None:
    """`check_folder`; where a run stands in the way, the refusal says that it can be resumed."""
    try:
        check_folder(out, overwrite=overwrite, replace=False, **inputs)
    except OutputError as error:
        if (out / STATE_FILE).is_file() and not overwrite:
            raise OutputError(f"{error}, or go on with the run that is there: --resume") from None
        raise


def run_facts(
    context: typer.Context,
    base: tr.Model,
    adapter: tr.Adapter,
    settings: tr.TrainSettings,
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
        adapter=None if given is None else str(given),
        init=adapter.init,
        seed=adapter.seed,
        calibration=indices,
        settings=settings.to_dict(),
        conventions=CONVENTIONS,
        plan=None if adapter.plan is None else adapter.plan.to_dict(),
    )


def begin_folder(out: Path, context: typer.Context, adapter: tr.Adapter, facts: dict[str, Any]) -> None:
    """OUT with the adapter the run starts from; an earlier run that is overwritten goes first."""
    try:
        clear_run(out, PARTS)
    except OSError as error:
        raise OutputError(f"{out}: cannot be cleared ({error.strerror or error})") from error
    write_beside(out, context, facts)
    tr.save_peft(adapter, out / START, base_model=context.params["base_model_id"] or facts["model"], facts=facts)


def say_stopped(out: Path, context: typer.Context, stop: KeyboardInterrupt, *, begun: bool) -> int:
    """Says after Ctrl-C or SIGTERM what was kept and how to go on; the exit status."""
    what, status = told(stop)
    if begun and (out / STATE_FILE).is_file():
        kept = f"the state is in {out / STATE_FILE}. To go on:\n  {resume_line(context)}"
    else:
        kept = "training had not begun, so there is nothing to resume"
    print(f"stopped by {what}: {kept}", file=sys.stderr)
    return status
