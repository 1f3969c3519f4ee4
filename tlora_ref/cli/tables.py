"""What several commands print: the memory they need, and the allocation."""

from __future__ import annotations

from pathlib import Path

import tlora_ref as tr
from tlora_ref.checkpoint import working_dtype
from tlora_ref.cli.screen import Screen, linear_algebra_line, size
from tlora_ref.names import by_kind, span


def say_memory(
    screen: Screen,
    folder: Path,
    dtype: str | None,
    hold: str | None,
    settings: tr.AdapterSettings | None = None,
    layers: int | None = None,
) -> None:
    """What the command will need, said before anything large is read; with `settings`, for an adapter it will make, of
    so many `layers` at a time."""
    memory = tr.plan_memory(folder, settings.rank if settings else 1, settings.targets if settings else None)
    need = memory.bytes(working_dtype(dtype, hold), hold)
    kept = working_dtype(dtype, hold) if hold is None else f"{hold}, computed with in float32"
    said = [f"{memory.model_type}: {memory.weights:,} weights take {size(need['weights'])} in {kept}"]
    if settings is not None:
        held = size(memory.calibration_bytes(working_dtype(dtype, hold), layers))
        said += [f"covariances of {len(memory.shapes)} modules {held}, adapter {size(need['adapter'])}"]
    screen.listed(said)
    screen.say(f"linear algebra: {linear_algebra_line()}")


#: Modules up to which the allocation is printed whole, and not by kind.
WHOLE = 40


def show_plan(screen: Screen, plan: tr.Plan, *, full: bool = False) -> None:
    """The allocation, module by module if it is short or `full` says so, else by kind; and what it sums to."""
    if full or len(plan.rank) <= WHOLE:
        rows = [_module_row(plan, module) for module in plan.rank]
        screen.table("Allocation (Eq. 6, 7)", ("module", "S", "r", "alpha", "scale", "note"), rows)
    else:
        title = "Allocation (Eq. 6, 7), least to most of a kind; --full has every module"
        screen.table(title, ("kind", "modules", "S", "r", "scale"), _kind_rows(plan))
        if plan.notes:
            first = next(iter(plan.notes))
            screen.say(f"{len(plan.notes)} modules have a note, e.g. {first}: {plan.notes[first]}")
    screen.say(
        f"profile {plan.profile}: ranks sum to {plan.spent} of {plan.budget}; B has {plan.trainable_parameters:,} "
        f"parameters\n(LoRA at rank {plan.r_init}, A and B: {plan.lora_parameters:,})"
    )
    if plan.rounding and plan.spent != plan.budget:
        more = f"{abs(plan.rounding)} {'more' if plan.rounding > 0 else 'less'}"
        screen.say(f"Eq. 6 rounds each rank by itself: they sum to {more} than the budget before any other rule")


def _module_row(plan: tr.Plan, module: str) -> tuple[str, ...]:
    """Module, S, rank, alpha, scale, and what a rule beyond Eq. 6 and 7 changed."""
    numbers = (f"{plan.sensitivity[module]:.3e}", str(plan.rank[module]), f"{plan.alpha[module]:.3f}")
    return (module, *numbers, f"{plan.scale(module):.4f}", plan.notes.get(module, ""))


def _kind_rows(plan: tr.Plan) -> list[tuple[str, ...]]:
    """Of each kind of module: how many, and the least and the most of S, rank and scale."""
    parts = [by_kind(values) for values in (plan.sensitivity, plan.rank, plan.scales)]
    return [
        (kind, str(len(S)), span(S, ".3e"), span(parts[1][kind], ".0f"), span(parts[2][kind], ".4f"))
        for kind, S in parts[0].items()
    ]
