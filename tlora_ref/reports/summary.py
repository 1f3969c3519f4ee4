"""The facts of a folder: a trace, an adapter, or a run that holds one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.adapter import Adapter
from tlora_ref.backend import Array
from tlora_ref.calibration import CALIBRATION_FILE
from tlora_ref.checkpoint import INITIAL, TRAINED, load_peft
from tlora_ref.checkpoint.peft_config import CONFIG, FACTS
from tlora_ref.checkpoint.reader import read_json
from tlora_ref.errors import CheckpointError
from tlora_ref.oracle.traces import MANIFEST, TENSORS, Trace
from tlora_ref.reports.unfinished import Unfinished, flags_of, unfinished
from tlora_ref.training import read_history


@dataclass
class ModuleFacts:
    """What is known of one module; `update` is ||s B A||_F, how far it was moved."""

    rank: int
    scale: float | None = None
    sensitivity: float | None = None
    update: float | None = None


@dataclass
class Summary:
    """What a folder says, whichever kind it is.

    Attributes
    ----------
    kind : "a trace", "an adapter" or "a training run"
    said : {what: its value}, for a person: profile, budget, how A was made, versions
    modules : {module path: ModuleFacts}
    losses : {"step", "loss", ...} for every step; empty where none was kept
    kept : the step whose weights a run's adapter holds; None where that is not known
    unfinished : what a run that was stopped has left to do; None for one that ended
    """

    kind: str
    said: dict[str, Any]
    modules: dict[str, ModuleFacts]
    losses: list[dict[str, Any]] = field(default_factory=list)
    kept: int | None = None
    unfinished: Unfinished | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def summarize(folder: str | Path) -> Summary:
    """The facts of a trace, of an adapter, or of a run that holds one; CheckpointError for another folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder. Give one that train, init or trace wrote")
    if (folder / MANIFEST).is_file() and (folder / TENSORS).is_file():
        return of_trace(Trace(folder))
    for place, kind in ((folder, "an adapter"), (folder / TRAINED, "a training run"), (folder / INITIAL, "")):
        if (place / CONFIG).is_file():
            adapter = of_adapter(load_peft(place), read_json(place / FACTS) if (place / FACTS).is_file() else {})
            if not kind:
                return begun(folder, adapter)
            losses = read_history(folder)
            left = unfinished(folder, losses)
            return Summary(kind, adapter.said, adapter.modules, losses, kept_step(folder, losses), left)
    if (folder / CALIBRATION_FILE).is_file():
        raise CheckpointError(
            f"{folder}: holds a calibration that was stopped, and no adapter yet: the command that began it goes on "
            "with it, with --resume"
        )
    model = ". It is a model's folder: `plan` says what it holds" if (folder / "config.json").is_file() else ""
    said = f"neither a trace ({TENSORS}), nor an adapter or a run that has one ({CONFIG})"
    raise CheckpointError(f"{folder}: {said}{model}")


def begun(folder: Path, start: Summary) -> Summary:
    """A run that has no adapter yet but the one it started from, whose B is zero."""
    for module in start.modules.values():
        module.update = None
    losses = read_history(folder)
    return Summary(
        "a training run that did not end", start.said, start.modules, losses, None, unfinished(folder, losses)
    )


def kept_step(folder: Path, losses: Sequence[Mapping[str, Any]]) -> int | None:
    """The step whose weights the run in `folder` has kept: by its held-out losses and its flag `keep`.

    None without losses, and where there is no file of flags and the best step is not the last.
    """
    if not losses:
        return None
    last = int(losses[-1]["step"])
    best = max((int(entry["step"]) for entry in losses if entry.get("best")), default=last)
    if best == last:
        return last
    return {"best": best, "last": last}.get(str(flags_of(folder).get("keep")))


def of_adapter(adapter: Adapter, beside: Mapping[str, Any]) -> Summary:
    """An adapter, with the plan and the versions that stand beside it if this library made it."""
    plan = adapter.plan
    said = {"init": adapter.init, "A": "frozen" if adapter.frozen_A else "trained"} if beside else {}
    known = (
        {} if plan is None else {m: ModuleFacts(r, plan.scale(m), plan.sensitivity[m]) for m, r in plan.rank.items()}
    )
    modules = known or {m: ModuleFacts(len(A)) for m, A in adapter.A.items()}
    for m in adapter.modules:
        modules[m].scale = adapter.scale[m]
        modules[m].update = update_norm(adapter.A[m], adapter.B[m], adapter.scale[m])
    if plan is not None:
        said |= {"profile": plan.profile} | budget(modules, plan.r_init, plan.alpha_init)
    parameters = sum(B.size for B in adapter.B.values())
    said |= {"parameters of B": f"{parameters:,}", **made(beside.get("versions"))}
    return Summary("an adapter", said, modules)


def of_trace(trace: Trace) -> Summary:
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
        modules[m] = ModuleFacts(int(trace.get(f"rank/{m}")), scale, number(f"sensitivity/{m}"), norm)
    said = {"profile": facts.resolved().name, "init": facts.init, "dtype": facts.dtype, "samples": facts.samples}
    said |= {**budget(modules, facts.r_init, facts.alpha), **made(facts.versions)}
    values = trace.get("train/loss").tolist() if trace.has("train/loss") else []
    return Summary("a trace", said, modules, [{"step": i, "loss": loss} for i, loss in enumerate(values, start=1)])


def budget(modules: Mapping[str, ModuleFacts], r_init: int, alpha: float) -> dict[str, Any]:
    """Eq. 6's budget, and what is used of it."""
    spent = sum(module.rank for module in modules.values())
    return {"r_init": r_init, "alpha": f"{alpha:g}", "ranks sum to": f"{spent} of {len(modules) * r_init}"}


def made(versions: Any) -> dict[str, Any]:
    """By which versions and kernel; nothing where that is not known."""
    if not isinstance(versions, Mapping):
        return {}
    blas = versions.get("blas")
    known = {**versions, **(blas if isinstance(blas, Mapping) else {})}
    return {name: known[name] for name in ("tlora_ref", "numpy", "kernel", "threads") if name in known}


def update_norm(A: Array, B: Array, scale: float) -> float:
    """||s B A||_F without the product: the trace of (B^T B)(A A^T)."""
    return abs(scale) * math.sqrt(max(0.0, float(((B.T @ B) * (A @ A.T)).sum())))
