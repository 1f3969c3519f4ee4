"""Options that several commands share, declared once; and the YAML file that may hold any of them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tlora_ref.errors import ConfigError


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Values of a YAML file become the defaults of this command's flags; a flag that is given wins."""
    if path is None:
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected flags and their values, e.g. 'rank: 8'")
    known = {str(p.name): p for p in context.command.params if p.name not in ("config", "help")}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0].replace('_', '-')}?" if close else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f'{path}: unknown key "{key}" for this command: {hint}')
        defaults[name] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


Config = Annotated[
    Path | None,
    typer.Option("--config", callback=read_config, is_eager=True, help="YAML file with any of these flags."),
]
ModelFolder = Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint.", show_default=False)]
Dtype = Annotated[str, typer.Option(help="float64 (the oracle's) or float32 (for work).")]
DeviceName = Annotated[str, typer.Option("--device", help="cpu or gpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output folder.")]

Data = Annotated[
    Path,
    typer.Option("--data", help="A .jsonl or .json file, or a directory of train, valid, test.", show_default=False),
]
Split = Annotated[str, typer.Option(help="Which file of a data directory.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Own field names, e.g. --field prompt=question --field completion=answer."),
]
Template = Annotated[str, typer.Option(help="Prompt template: plain, question, alpaca, or chat (the tokenizer's own).")]
MaxLength = Annotated[int | None, typer.Option(help="Longest sample in tokens; by default the model's context.")]

Rank = Annotated[int, typer.Option(help="r_init: the rank that plain LoRA would give every module.")]
Alpha = Annotated[float | None, typer.Option(help="alpha of plain LoRA; by default the rank.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="Module path, end of path, or regular expression; may be repeated.")
]
Profile = Annotated[str, typer.Option(help="paper, or released (what the authors' code does).")]
Init = Annotated[str, typer.Option(help="How A is made: wc-svd, w-svd, random, theory.")]
Samples = Annotated[int, typer.Option(help="Calibration samples.")]
Seed = Annotated[int, typer.Option(help="Of the choice of samples, a random A, and the data order.")]
UniformRank = Annotated[bool, typer.Option("--uniform-rank", help="Every module gets r_init (ablation).")]
UniformScale = Annotated[bool, typer.Option("--uniform-scale", help="Every module gets plain LoRA's scale (ablation).")]
RankFloor = Annotated[int | None, typer.Option(help="Least rank of a module (the paper has none).")]
Redistribute = Annotated[bool, typer.Option("--redistribute", help="Hand on ranks that the size of a module cuts off.")]


def pairs(fields: list[str] | None) -> dict[str, str] | None:
    """`name=value` options as a dictionary."""
    if not fields:
        return None
    for field in fields:
        if field.count("=") != 1:
            raise ConfigError(f"--field {field}: expected our name, an equals sign, the file's name (prompt=question)")
    return dict(field.split("=") for field in fields)
