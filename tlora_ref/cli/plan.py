"""`tlora-ref plan`: parameters, memory and time from a configuration alone."""

from __future__ import annotations

import math
from collections import Counter

import tlora_ref as tr
from tlora_ref import machine
from tlora_ref.cli import options as o
from tlora_ref.cli.screen import Screen, duration, size
from tlora_ref.errors import ConfigError
from tlora_ref.planning.memory import HOLDERS, KEPT
from tlora_ref.planning.time import EFFICIENCY


def run(
    model: o.ModelFolder,
    config: o.Config = None,
    rank: o.Rank = 8,
    alpha: o.Alpha = None,
    target: o.Targets = None,
    samples: o.Samples = 32,
    tokens: o.SampleTokens = 512,
    workers: o.Workers = 1,
    download: o.Download = False,
    json: o.Json = False,
) -> None:
    """Parameters, memory and time of an adapter, from config.json alone (MODEL: its folder, or the file itself)."""
    screen = Screen(json)
    alpha = float(rank) if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise ConfigError(f"--alpha {alpha}: expected a positive, finite number")
    memory = tr.plan_memory(model, rank, target)
    show_memory(screen, memory, alpha)
    time = tr.plan_time(memory, samples=samples, tokens=tokens, workers=workers)
    show_time(screen, time, samples, tokens, workers)
    screen.finish({"alpha": alpha, "machine_bytes": machine.memory(), **memory.to_dict(), **time.to_dict()})


def show_memory(screen: Screen, memory: tr.MemoryPlan, alpha: float) -> None:
    """The target modules, the budget and the table of memory."""
    modules = len(memory.shapes)
    screen.say(f"{memory.model_type}: {memory.weights:,} weights, {modules} target modules")
    kinds = Counter((module.rpartition(".")[2], shape) for module, shape in memory.shapes.items())
    rows = [(name, f"{d_out:,}", f"{d_in:,}", str(n)) for (name, (d_out, d_in)), n in kinds.items()]
    screen.table("Target modules", ("name", "d_out", "d_in", "modules"), rows)
    said = f"{modules} x {memory.rank} = {memory.budget:,}, mean scale {memory.mean_scale(alpha):g}"
    screen.say(f"Budget: ranks sum to {said}")
    screen.say(f"  LoRA, A and B trained:                  {memory.lora_parameters:>15,} parameters")
    screen.say(f"  frozen A, uniform rank, B trained:      {memory.frozen_A_parameters:>15,} parameters")
    screen.say("  TLoRA's own count depends on the data: `tlora-ref init` prints it")
    taken = [memory.bytes(*kept) for kept in KEPT.values()]
    lines = [(name.replace("_", " "), *(size(t[name]) for t in taken), what) for name, what in HOLDERS.items()]
    screen.table("Memory, beside activations (bfloat16: --hold)", ("", *KEPT, ""), lines)
    show_fit(screen, memory, machine.memory())


def show_fit(screen: Screen, memory: tr.MemoryPlan, there: int | None) -> None:
    """What each kind of work needs, and whether this machine, which has `there` bytes, has room for it."""
    work = [memory.work(*kept) for kept in KEPT.values()]

    def cell(need: int) -> str:
        return size(need) if there is None else f"{size(need)}, {'fits' if need < there else 'does not fit'}"

    lines = [(what, *(cell(kept[what]) for kept in work)) for what in work[0]]
    title = "Work" if there is None else f"Work on this machine, which has {size(there)}"
    screen.table(f"{title}, beside activations", ("", *KEPT), lines)


def show_time(screen: Screen, time: tr.TimePlan, samples: int, tokens: int, workers: int) -> None:
    """About how long the work before training takes."""
    machines = f"; {workers} such machines calibrate" if workers > 1 else ""
    rate = time.gflop_per_second
    screen.say(f"Time in float32, about, at {EFFICIENCY:.0%} of the {rate:,.0f} GFLOP/s measured now{machines}")
    screen.say(f"  calibration, {samples} samples of {tokens} tokens: {duration(time.hours['calibration'])}")
    screen.say(f"  initialisation, the SVD of every W C: {duration(time.hours['initialisation'])}")
