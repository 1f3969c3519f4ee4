"""A command's flags as the library's settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

import tlora_ref as tr
from tlora_ref.checkpoint import choices_of
from tlora_ref.cli.options import pairs
from tlora_ref.cli.screen import warn
from tlora_ref.data import Row, Tokenizer
from tlora_ref.errors import ConfigError

#: Flags that say how an adapter is made.
ADAPTER_FLAGS = (
    *("rank", "alpha", "target", "profile", "init", "samples", "seed", "uniform_rank", "uniform_scale"),
    *("scale_rule", "rank_floor", "redistribute", "switch"),
)


def adapter_settings(context: typer.Context) -> tr.AdapterSettings:
    """ADAPTER_FLAGS, checked."""
    flags = context.params
    if not flags["uniform_scale"]:
        say_unused(context, "it says what --uniform-scale means", "scale_rule")
    return tr.AdapterSettings(
        rank=flags["rank"],
        alpha=flags["alpha"],
        targets=tuple(flags["target"] or ()) or None,
        switches=switches(context),
        init=flags["init"],
        samples=flags["samples"],
        seed=flags["seed"],
        adapt_rank=not flags["uniform_rank"],
        adapt_scale=not flags["uniform_scale"],
        uniform_scale=flags["scale_rule"],
    )


def switches(context: typer.Context) -> tr.Switches:
    """The profile of --profile, with the switches that --switch name=value, --rank-floor and --redistribute change."""
    flags = context.params
    changes: dict[str, Any] = {}
    for name, text in pairs("--switch", flags["switch"]).items():
        whole = int(text) if text.isdecimal() else text
        changes[name.replace("-", "_")] = {"true": True, "false": False}.get(text.lower(), whole)
    if flags.get("rank_floor") is not None:
        changes["rank_floor"] = flags["rank_floor"]
    if flags.get("redistribute"):
        changes["redistribute"] = True
    return tr.resolve(flags["profile"], **changes)


def data_source(context: typer.Context, **changes: Any) -> tr.DataSource:
    """--data, --field, --template, --max-length, --too-long and --task, checked; `changes` win."""
    flags = {**context.params, **changes}
    if flags["data"].is_file():
        say_unused(context, "--data is one file", "split")
    return tr.DataSource(
        path=flags["data"],
        fields=pairs("--field", flags["field"]),
        template=flags["template"],
        max_length=flags["max_length"],
        too_long=flags.get("too_long", "skip"),
        task=None if flags["task"] is None else tr.load_task(flags["task"]),
    )


def labels(context: typer.Context, source: tr.DataSource | None) -> tuple[str, ...] | None:
    """The classes of --labels; those of --task for a model that has no head for them; None for a model as it is."""
    given = context.params["labels"]
    if given is not None:
        return tuple(name.strip() for name in given.split(","))
    task = None if source is None else source.task
    understands = task is not None and task.kind == "understanding"
    return task.choices if task is not None and understands and tr.is_bare_encoder(context.params["model"]) else None


def train_settings(context: typer.Context, **changes: Any) -> tr.TrainSettings:
    """The training flags, checked; `changes` win."""
    flags = {f.name: context.params[f.name] for f in fields(tr.TrainSettings) if f.name in context.params}
    return tr.TrainSettings(**{**flags, "also": tuple(flags.get("also") or ()), **changes})


def split_rows(context: typer.Context, source: tr.DataSource) -> tuple[list[Row], list[Row]]:
    """(rows to train on, held-out rows); ConfigError for flags that want held-out data where there are none."""
    flags = context.params
    rows = source.rows(flags["split"])
    if flags["valid_share"] is None:
        held = source.held_out(flags["valid"])
    elif flags["valid"] is None:
        rows, held = source.split_off(rows, flags["valid_share"], flags["seed"])
    else:
        raise ConfigError("--valid names held-out data and --valid-share draws them: give one of the two")
    for name in ("eval_every", "patience"):
        if flags.get(name) is not None and not held:
            raise ConfigError(
                f"--{name.replace('_', '-')} goes by held-out data, and there are none: give --valid FILE, "
                "--valid-share 0.05, or a directory of data that has a valid split"
            )
    return rows, held


def packed_length(context: typer.Context) -> int | None:
    """How long the sequences of --packing are; None without. ConfigError where nothing says it."""
    if not context.params["packing"]:
        return None
    longest: int | None = context.params["max_length"]
    if longest is None:
        raise ConfigError(
            "--packing fills sequences of up to --max-length tokens: give that too, at most the model's context"
        )
    return longest


#: Flags that say how the next token is chosen; all but the first and the last do nothing at temperature 0.
SAMPLING_FLAGS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def responder(
    context: typer.Context, model: tr.Model, tokenizer: Tokenizer, *, within_context: bool = True
) -> tr.Responder:
    """SAMPLING_FLAGS, --max-new-tokens, --stop and --seed, checked; a note on those that do nothing."""
    flags = context.params
    say_unused_choices(context)
    if flags["temperature"] == 0:
        say_unused(context, "it draws nothing at temperature 0", *SAMPLING_FLAGS[1:-1], "seed")
    return tr.Responder(
        model,
        tokenizer,
        max_new_tokens=flags["max_new_tokens"],
        stops=[text.replace("\\n", "\n") for text in flags["stop"] or ()],
        sampling={name: flags[name] for name in SAMPLING_FLAGS},
        seed=flags["seed"],
        within_context=within_context,
    )


def say_unused_choices(context: typer.Context) -> None:
    """A note of what MODEL's generation_config.json asks for in choosing tokens, for it is not applied."""
    model, flags = Path(context.params["model"]), context.params
    asked = choices_of(model if model.is_dir() else model.parent)
    words = [f"{name} {value}" for name, value in asked.items() if not given(context, [name])]
    if words:
        own = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if name in flags]
        hint = f". To have them: {' '.join(own)}" if own else ""
        warn(f"generation_config.json asks for {', '.join(words)}; none of it is applied here{hint}")


def given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Which of these flags stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def say_unused(context: typer.Context, why: str, *names: str) -> None:
    """A note for each of these flags that was given and does nothing in this call."""
    for name in given(context, names):
        warn(f"--{name.replace('_', '-')} does nothing here: {why}")
