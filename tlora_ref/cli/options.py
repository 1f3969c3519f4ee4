"""Options that several commands share, declared once; and the YAML file that may hold any of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
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
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected flags and their values, e.g. 'rank: 8'")
    known = {_plain(spelling): p for p in context.command.params for spelling in (str(p.name), *p.opts)}
    for not_a_flag in ("config", "help", "h"):
        known.pop(not_a_flag, None)
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        parameter = known.get(_plain(str(key)))
        if parameter is None:
            raise ConfigError(f'{path}: unknown key "{key}" for this command: {_hint(_plain(str(key)), known)}')
        if value is not None:
            many = bool(getattr(parameter, "multiple", False))
            defaults[str(parameter.name)] = _value(path, str(key), value, many, parameter.nargs)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _plain(spelling: str) -> str:
    """One name for `--batch-size`, `batch-size` and `batch_size`."""
    return spelling.lstrip("-").replace("-", "_")


def _hint(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    names = sorted({str(parameter.name) for parameter in known.values()})
    return f"did you mean {close[0]}?".replace("_", "-") if close else f"known are {', '.join(names)}".replace("_", "-")


def _value(path: Path, key: str, value: Any, many: bool, entries: int) -> Any:
    """A YAML value as a flag takes it; one that may be repeated takes a list, or a mapping (`a: b` is a=b)."""
    if many:
        if isinstance(value, Mapping):
            return [f"{name}={text}" for name, text in value.items()]
        return [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, list) and entries == len(value):
        return tuple(value)
    if isinstance(value, list | dict):
        expected = "one value" if entries == 1 else f"a list of {entries} values"
        raise ConfigError(f'{path}: key "{key}" holds {value!r:.60}, expected {expected}')
    return value


Config = Annotated[
    Path | None,
    typer.Option("--config", callback=read_config, is_eager=True, help="YAML file with any of these flags."),
]
ModelFolder = Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
AdapterFolder = Annotated[Path | None, typer.Option("--adapter", help="PEFT adapter folder to attach.")]
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
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="A task by name (sst2, openbookqa, gsm8k, humaneval, ...), or its .yaml file."),
]
MaxLength = Annotated[int | None, typer.Option(min=2, help="Longest sample in tokens; by default the model's context.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples of one forward pass.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest generated response.")]

Rank = Annotated[int, typer.Option(min=1, help="r_init: the rank that plain LoRA would give every module.")]
Alpha = Annotated[float | None, typer.Option(help="alpha of plain LoRA; by default the rank.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "--targets", help="Module path, end of path, or regular expression; may be repeated."),
]
Profile = Annotated[str, typer.Option(help="paper, or released (what the authors' code does).")]
Init = Annotated[str, typer.Option(help="How A is made: wc-svd, w-svd, random, theory.")]
Samples = Annotated[int, typer.Option(min=1, help="Calibration samples.")]
SampleTokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a calibration sample.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that calibrate; with as many BLAS threads each, the same bits.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice of samples, a random A, and the data order.")]
UniformRank = Annotated[bool, typer.Option("--uniform-rank", help="Every module gets r_init (ablation).")]
UniformScale = Annotated[bool, typer.Option("--uniform-scale", help="Every module gets plain LoRA's scale (ablation).")]
ScaleRule = Annotated[str, typer.Option(help="What --uniform-scale means: alpha/r_init or alpha/r_i.")]
RankFloor = Annotated[int | None, typer.Option(help="Least rank of a module (the paper has none).")]
Redistribute = Annotated[bool, typer.Option("--redistribute", help="Hand on ranks that the size of a module cuts off.")]
SwitchValues = Annotated[
    list[str] | None,
    typer.Option("--switch", help="One switch of the profile changed, e.g. --switch centre=true; may be repeated."),
]


def pairs(flag: str, values: list[str] | None) -> dict[str, str]:
    """`name=value` options of a flag as a dictionary."""
    found: dict[str, str] = {}
    for text in values or []:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise ConfigError(f"{flag} {text}: expected a name, an equals sign and a value")
        if name in found:
            raise ConfigError(f"{flag} {text}: {name} is given twice")
        found[name] = value
    return found
