"""`tlora-ref export`: an adapter for the programs that people run models with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.cli import options as o
from tlora_ref.cli.output import check_folder, write_beside
from tlora_ref.cli.screen import Screen

#: How each format is used.
USED = {
    "gguf-lora": "llama-cli -m MODEL.gguf --lora {out}/adapter.gguf",
    "mlx": "mlx_lm.generate --model MODEL --adapter-path {out}",
    "peft-uniform": "PeftModel.from_pretrained(model, {out!r})",
}


def run(
    context: typer.Context,
    adapter: Annotated[Path, typer.Argument(help="PEFT adapter folder.", show_default=False)],
    to: Annotated[str, typer.Option(help="gguf-lora (llama.cpp), mlx (mlx-lm) or peft-uniform.", show_default=False)],
    out: o.Out,
    config: o.Config = None,
    model: Annotated[
        Path | None, typer.Option(help="The model's folder, or NAME/REPO in the cache; the adapter's own by default.")
    ] = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Write an adapter for llama.cpp, mlx-lm, or PEFT at one rank.

    The last is for whatever knows one rank and one alpha.
    """
    screen = Screen(json)
    check_folder(out, overwrite=overwrite, replace=True, adapter=adapter)
    written = tr.export_adapter(adapter, to, out, model_folder=model, overwrite=overwrite)
    write_beside(out, context)
    screen.say(f"wrote {out}: {len(written.modules)} modules for {to}, e.g. {USED[to].format(out=str(out))}")
    screen.finish({"out": str(out), "to": to, "modules": len(written.modules)})
