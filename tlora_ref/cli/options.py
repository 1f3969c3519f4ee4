"""Flags that several commands have, declared once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

import tlora_ref as tr
from tlora_ref.checkpoint import check_model_folder, find_adapter
from tlora_ref.cli.config_file import read_config
from tlora_ref.errors import CheckpointError, ConfigError

Config = Annotated[
    Path | None,
    typer.Option("--config", callback=read_config, is_eager=True, help="YAML file with any of these flags."),
]


def _found(context: typer.Context, folder: Path) -> Path:
    """The folder that MODEL names: a local one, or a repository's in the Hugging Face cache."""
    found = check_model_folder(tr.find_model(folder, download=bool(context.params.get("download"))))
    if found.is_file() and context.info_name != "plan":  # which needs a configuration alone
        raise CheckpointError(f"{found}: is one file, not a model's folder: give the folder that config.json is in")
    return found


def _found_adapter(context: typer.Context, folder: Path | None) -> Path | None:
    """The folder that --adapter names."""
    return None if folder is None else find_adapter(folder, download=bool(context.params.get("download")))


ModelFolder = Annotated[
    Path,
    typer.Argument(
        help="Folder of a Hugging Face checkpoint, or NAME/REPO in its cache.", show_default=False, callback=_found
    ),
]
Download = Annotated[
    bool, typer.Option("--download", is_eager=True, help="Fetch NAME/REPO from the Hugging Face Hub if need be.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Full = Annotated[bool, typer.Option("--full", help="Print the allocation of every module, however many.")]
BaseModelId = Annotated[
    str | None,
    typer.Option("--base-model-id", help="The model's name in adapter_config.json (NAME/REPO); by default MODEL."),
]
AdapterFolder = Annotated[
    Path | None,
    typer.Option(
        "--adapter", help="PEFT adapter to attach: its folder, a run's, or NAME/REPO.", callback=_found_adapter
    ),
]
Dtype = Annotated[str, typer.Option(help="float32 (for work) or float64 (the oracle's).")]
Hold = Annotated[
    str | None,
    typer.Option(
        help="bfloat16: keep a bfloat16 checkpoint's matrices in two bytes, compute in float32; same results."
    ),
]
DeviceName = Annotated[str, typer.Option("--device", help="cpu or gpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report", help="FILE.json, .xml (JUnit) or .html (a page): every finding, right or wrong, for others."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output folder.")]

Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was stopped in --out, to the same bits.")]

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        help="A .jsonl, .json, .csv or .parquet file, or a directory of train, valid, test.",
        show_default=False,
    ),
]
Split = Annotated[str, typer.Option(help="Which file of a data directory.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--field", help="Own field names, e.g. --field prompt=question --field completion=answer."),
]
Template = Annotated[str, typer.Option(help="Prompt template: plain, question, alpaca, or chat (the tokenizer's own).")]
TemplateOfAdapter = Annotated[
    str | None,
    typer.Option(
        "--template", help="Prompt template, as for train; by default the one the adapter was trained with, else plain."
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="A task by name (sst2, openbookqa, gsm8k, humaneval, ...), or its .yaml file."),
]
MaxLength = Annotated[int | None, typer.Option(min=2, help="Longest sample in tokens; by default the model's context.")]
TooLong = Annotated[str, typer.Option(help="What becomes of rows that are longer: skip, truncate, chunk.")]
GroupByLength = Annotated[bool, typer.Option("--group-by-length", help="Rows of like length share batches.")]
Packing = Annotated[bool, typer.Option("--packing", help="Rows of a batch side by side, up to --max-length.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples of one forward pass.")]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute", help="Compute MLPs' insides again on the way back: less memory, more time; with --hold always."
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest generated response.")]

Chat = Annotated[bool, typer.Option("--chat", help="The tokenizer's own chat template: --template chat.")]
System = Annotated[str | None, typer.Option(help="The system message of the chat.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Draw from the so many likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Draw from the fewest likeliest tokens that have this probability.")]
MinP = Annotated[float, typer.Option(help="Draw from tokens of at least this share of the likeliest's probability.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, tokens that were there become less likely.")]
Stops = Annotated[
    list[str] | None, typer.Option("--stop", help=r"A text that ends the response (\n: a line break); may be repeated.")
]
DrawSeed = Annotated[int, typer.Option(min=0, help="Of the draws at a temperature above 0.")]

LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
Schedule = Annotated[str, typer.Option(help="cosine, linear or constant.")]
WarmupRatio = Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")]
WarmupSteps = Annotated[int | None, typer.Option(min=0, help="How many steps it rises, in place of a share.")]
LeastRate = Annotated[float, typer.Option("--min-lr", help="Where the cosine ends.")]
Cycles = Annotated[int, typer.Option(help="How many cosines cosine_with_restarts makes.")]
Valid = Annotated[Path | None, typer.Option(help="Held-out data; by default the directory's valid split.")]
ValidShare = Annotated[float | None, typer.Option(help="Hold out this share of the rows, drawn by --seed.")]
EvalEvery = Annotated[int | None, typer.Option(min=1, help="Evaluate every so many steps; else after each epoch.")]
Keep = Annotated[str, typer.Option(help="Which weights OUT/adapter holds: best (by held-out loss) or last.")]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many evaluations without a better one.")]
SaveEvery = Annotated[
    int | None, typer.Option(min=1, help="Save the state every so many steps; every five minutes in any case.")
]
KeepLast = Annotated[
    int | None, typer.Option(min=1, help="Keep the last so many saved states, OUT/checkpoints/step-N, with adapters.")
]
FromStep = Annotated[int | None, typer.Option(min=0, help="With --resume: go back to this kept step.")]
Betas = Annotated[tuple[float, float], typer.Option(help="AdamW's two.", metavar="FLOAT FLOAT")]
Eps = Annotated[float, typer.Option(help="AdamW's.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's decoupled decay.")]
MaxGradNorm = Annotated[float | None, typer.Option(help="Clip the gradient's norm.")]

Rank = Annotated[int, typer.Option(min=1, help="r_init: the rank that plain LoRA would give every module.")]
Alpha = Annotated[float | None, typer.Option(help="alpha of plain LoRA; by default the rank.")]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "--targets", help="Module path, end of path, or regular expression; may be repeated."),
]
Profile = Annotated[str, typer.Option(help="paper, or released (what the authors' code does).")]
Init = Annotated[str, typer.Option(help="How A is made: wc-svd, w-svd, random, theory.")]
Samples = Annotated[int, typer.Option(min=1, help="Calibration samples.")]
LayersAtOnce = Annotated[
    int | None,
    typer.Option(
        min=1, help="Calibrate so many layers at a time, with a pass each: less memory, more time, the same bits."
    ),
]
SampleTokens = Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a calibration sample.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that calibrate; with as many BLAS threads each, the same bits.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the choice of samples, a random A, and the data order.")]
UniformRank = Annotated[bool, typer.Option("--uniform-rank", help="Every module gets r_init (ablation).")]
UniformScale = Annotated[bool, typer.Option("--uniform-scale", help="Every module gets plain LoRA's scale (ablation).")]
ScaleRule = Annotated[str, typer.Option(help="What --uniform-scale means: alpha/r_init or alpha/r_i.")]
Labels = Annotated[
    str | None,
    typer.Option(help="Classes, a,b: a bare encoder gets a fresh head for them. A --task with options names its own."),
]
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
            colon = f" (did you mean {flag} {text.replace(':', '=', 1)}?)" if ":" in text and not equals else ""
            raise ConfigError(f"{flag} {text}: expected a name, an equals sign and a value{colon}")
        if re.search(r"[,\s]\s*\w+=", value):
            apart = " ".join(f"{flag} {part}" for part in re.split(r"[,\s]+", text) if part)
            raise ConfigError(f"{flag} {text}: one name and value each (did you mean {apart}?)")
        if name in found:
            raise ConfigError(f"{flag} {text}: {name} is given twice")
        found[name] = value
    return found
