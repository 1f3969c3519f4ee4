"""`tlora-ref demo`: the main job on the model that comes along, by the commands that do it on any other."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_folder

PROMPT = "At the first stop 172 people - 47 people = 125 people are on the train.\n"


def run(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("tlora-demo"),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 100,
    overwrite: o.Overwrite = False,
) -> None:
    """Fine-tune the shipped model, and show each command that does it.

    Half a minute on two cores.
    """
    folder = tr.shipped_model()
    check_folder(out, overwrite=overwrite, model=folder)
    print(f"{folder.name}, a Llama of 857,216 weights,\nlearns to write the calculation inside a sentence.")
    data, adapter = ["--data", str(folder / "task")], ["--adapter", str(out / "adapter")]
    recipe = ["--rank", "8", "--steps", str(steps), "--batch-size", "16", "--lr", "1e-2", "--log-every", "10"]
    again = ["--overwrite"] if overwrite else []
    for command in (
        ["eval", str(folder), *data],
        ["train", str(folder), *data, "--out", str(out), *recipe, *again],
        ["eval", str(folder), *data, *adapter],
        ["generate", str(folder), *adapter, "--prompt", PROMPT, "--max-new-tokens", "24"],
    ):
        print(f"\n$ {shlex.join(['tlora-ref', *command])}", flush=True)
        context.find_root().command.main(command, prog_name="tlora-ref", standalone_mode=False, obj=command)
    print(f"\nThe adapter is in {out / 'adapter'}, as PEFT reads it.\nYour own model and data go the same way.")
