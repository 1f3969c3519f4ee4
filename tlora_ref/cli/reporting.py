"""`report`: what a folder that the other commands left says, for a person: budget, ranks, scales, updates, losses."""

from __future__ import annotations

import json as json_module
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array
from tlora_ref.checkpoint import load_peft
from tlora_ref.checkpoint.peft_config import CONFIG, FACTS
from tlora_ref.checkpoint.reader import read_json
from tlora_ref.cli import options as o
from tlora_ref.cli.output import HISTORY_FILE
from tlora_ref.cli.show import Screen
from tlora_ref.errors import CheckpointError
from tlora_ref.oracle.format import MANIFEST, TENSORS, Trace


@dataclass
class Module:
    """What is known of one module; `update` is ||s B A||_F, how far it was moved."""

    rank: int
    scale: float | None = None
    sensitivity: float | None = None
    update: float | None = None


@dataclass
class Facts:
    """What a folder says, whichever kind it is; `losses` has a {"step", "loss", ...} for every step."""

    kind: str
    said: dict[str, Any]
    modules: dict[str, Module]
    losses: list[dict[str, Any]] = field(default_factory=list)


def report(
    folder: Annotated[
        Path, typer.Argument(help="What train, init or trace wrote, or any PEFT adapter.", show_default=False)
    ],
    json: o.Json = False,
) -> None:
    """Say what a run, an adapter or a trace holds: budget, ranks by layer, scales, updates, losses."""
    screen, facts = Screen(json), read(folder)
    screen.say(f"{folder}: {facts.kind}")
    screen.say("; ".join(f"{name} {value}" for name, value in facts.said.items()))
    grid = by_layer({name: str(module.rank) for name, module in facts.modules.items()})
    screen.table("Rank by layer", *grid)
    screen.table("By kind of module", *by_kind(facts.modules))
    for line in losses_said(facts.losses):
        screen.say(line)
    screen.finish(asdict(facts))


def read(folder: Path) -> Facts:
    """The facts of a trace, of an adapter, or of a run that holds one; CheckpointError for another folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give one that train, init or trace wrote")
    if (folder / MANIFEST).is_file() and (folder / TENSORS).is_file():
        return of_trace(Trace(folder))
    for place, kind in ((folder, "an adapter"), (folder / "adapter", "a training run")):
        if (place / CONFIG).is_file():
            adapter = of_adapter(load_peft(place), read_json(place / FACTS) if (place / FACTS).is_file() else {})
            return Facts(kind, adapter.said, adapter.modules, history(folder))
    raise CheckpointError(f"{folder}: neither a trace ({TENSORS}), nor an adapter or a run that has one ({CONFIG})")


def of_adapter(adapter: Adapter, beside: Mapping[str, Any]) -> Facts:
    """An adapter, with the plan and the versions that stand beside it if this library made it."""
    plan = adapter.plan
    said = {"init": adapter.init, "A": "frozen" if adapter.frozen_A else "trained"} if beside else {}
    known = {} if plan is None else {m: Module(r, plan.scale(m), plan.sensitivity[m]) for m, r in plan.rank.items()}
    modules = known or {m: Module(len(A)) for m, A in adapter.A.items()}
    for m in adapter.modules:
        modules[m].scale = adapter.scale[m]
        modules[m].update = update_norm(adapter.A[m], adapter.B[m], adapter.scale[m])
    if plan is not None:
        said |= {"profile": plan.profile} | budget(modules, plan.r_init, plan.alpha_init)
    parameters = sum(B.size for B in adapter.B.values())
    said |= {"parameters of B": f"{parameters:,}", **made(beside.get("versions", {}))}
    return Facts("an adapter", said, modules)


def of_trace(trace: Trace) -> Facts:
    """A trace, golden or a candidate's; B and A are those after the last step."""
    facts = trace.manifest
    last = max(trace.numbered("train", "B"), default=0)

    def number(name: str) -> float | None:
        return float(trace.get(name)) if trace.has(name) else None

    modules = {}
    for m in trace.modules("rank"):
        names = [f"train/{last}/A/{m}" if trace.has(f"train/{last}/A/{m}") else f"A/{m}", f"train/{last}/B/{m}"]
        scale = number(f"scale/{m}")
        whole = scale is not None and all(map(trace.has, names))
        norm = update_norm(trace.get(names[0]), trace.get(names[1]), scale) if whole and scale is not None else None
        modules[m] = Module(int(trace.get(f"rank/{m}")), scale, number(f"sensitivity/{m}"), norm)
    said = {"profile": facts.resolved().name, "init": facts.init, "dtype": facts.dtype, "samples": facts.samples}
    said |= {**budget(modules, facts.r_init, facts.alpha), **made(facts.versions)}
    values = trace.get("train/loss").tolist() if trace.has("train/loss") else []
    return Facts("a trace", said, modules, [{"step": i, "loss": loss} for i, loss in enumerate(values, start=1)])


def budget(modules: Mapping[str, Module], r_init: int, alpha: float) -> dict[str, Any]:
    """Eq. 6's budget, and what is used of it."""
    spent = sum(module.rank for module in modules.values())
    return {"r_init": r_init, "alpha": f"{alpha:g}", "ranks sum to": f"{spent} of {len(modules) * r_init}"}


def made(versions: Mapping[str, Any]) -> dict[str, Any]:
    """By which versions and kernel."""
    blas = versions.get("blas")
    known = {**versions, **(blas if isinstance(blas, Mapping) else {})}
    return {name: known[name] for name in ("tlora_ref", "numpy", "kernel", "threads") if name in known}


def update_norm(A: Array, B: Array, scale: float) -> float:
    """||s B A||_F without the product: the trace of (B^T B)(A A^T)."""
    return abs(scale) * math.sqrt(max(0.0, float(((B.T @ B) * (A @ A.T)).sum())))


def history(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's history, if there is one."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return []
    try:
        entries = [json_module.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return [{**entry, "step": int(entry["step"]), "loss": float(entry["loss"])} for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the run's history is damaged ({type(error).__name__}: {error})") from error


def place(module: str) -> tuple[str, str]:
    """A module's layer and its name in it, without numbers: `model.layers.3`, `self_attn.q_proj`; no layer is ""."""
    match = re.match(r"(.*?\.\d+)\.(.+)", module)
    if match is None:
        return "", module
    return match[1], ".".join(part for part in match[2].split(".") if not part.isdigit())


def kinds(modules: Sequence[str]) -> dict[str, str]:
    """{name in a layer: the shortest end of it that no other has}."""
    names = list(dict.fromkeys(place(m)[1] for m in modules))

    def end(name: str, parts: int) -> str:
        return ".".join(name.split(".")[-parts:])

    shortest = {}
    for name in names:
        depth = range(1, name.count(".") + 2)
        alone = (n for n in depth if sum(end(other, n) == end(name, n) for other in names) == 1)
        shortest[name] = end(name, next(alone, depth[-1]))
    return shortest


def by_layer(cells: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of a table: a row a layer, a column a kind of module."""
    names = kinds(list(cells))
    layers: dict[str, dict[str, str]] = {}
    for module, cell in cells.items():
        layer, name = place(module)
        layers.setdefault(layer, {})[names[name]] = cell
    columns = list(names.values())
    rows = [[layer or "(no layer)", *(found.get(c, "") for c in columns)] for layer, found in layers.items()]
    return ["layer", *columns], rows


def by_kind(modules: Mapping[str, Module]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of a table: means over the modules of a kind, and the kind's share of the sensitivity."""
    names = kinds(list(modules))
    total = sum(module.sensitivity or 0.0 for module in modules.values())
    rows = []
    for name, short in names.items():
        mine = [module for m, module in modules.items() if place(m)[1] == name]
        S = sum(module.sensitivity or 0.0 for module in mine)
        share = f"{S / total:.1%}" if total else ""
        rows.append([short, str(len(mine)), _mean([x.rank for x in mine], ".1f"), _mean([x.scale for x in mine], ".3f"),
                     share, _mean([x.update for x in mine], ".3g")])  # fmt: skip
    return ["kind", "modules", "mean rank", "mean scale", "share of S", "mean update"], rows


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(float(np.mean(known)), form) if known else ""


def losses_said(losses: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses of a run in two lines."""
    if not losses:
        return []
    first, last = losses[0], losses[-1]
    lines = [f"training loss: {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}"]
    held_out = [entry for entry in losses if "valid_loss" in entry]
    if held_out:
        best = min(held_out, key=lambda entry: entry["valid_loss"])
        said = f"held-out loss: {held_out[-1]['valid_loss']:.4f} at step {held_out[-1]['step']}"
        lines.append(f"{said}, the least {best['valid_loss']:.4f} at step {best['step']}")
    return lines
