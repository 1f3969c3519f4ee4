"""`tlora-ref merge`: an adapter folded into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.checkpoint import file_dtype
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_folder, write_beside
from tlora_ref.cli.screen import Screen, warn
from tlora_ref.cli.tables import say_memory


def run(
    context: typer.Context,
    model: o.ModelFolder,
    adapter: Annotated[Path, typer.Option(help="PEFT adapter folder.", show_default=False)],
    out: o.Out,
    config: o.Config = None,
    dtype_out: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    dtype: o.Dtype = "float64",
    device: o.DeviceName = "cpu",
    overwrite: o.Overwrite = False,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Fold an adapter into the weights of its model.

    OUT is a Hugging Face folder that transformers loads.
    """
    screen = Screen(json)
    check_folder(out, overwrite=overwrite, replace=True, model=model, adapter=adapter)
    file_dtype(dtype_out)  # refused before any work
    say_memory(screen, model, dtype, None)
    merged = tr.merge_checkpoint(model, adapter, out, dtype_out, dtype=dtype, device=device, overwrite=overwrite)
    write_beside(out, context)
    lost, mean, worst = merged.rounded_away, merged.mean, merged.worst
    screen.say(f"wrote {out}: {len(lost)} modules merged, {dtype_out}")
    screen.listed([f"rounding to {dtype_out} loses {mean:.2%} of the update on average, {lost[worst]:.2%} at {worst}"])
    if mean > 0.1:
        warn(f"{dtype_out} rounds much of the update away: write --dtype-out float32, or keep the adapter apart")
    rounded = {"rounded_away": lost, "rounded_away_mean": mean}
    screen.finish({"out": str(out), "dtype": dtype_out, "modules": len(lost), **rounded})
