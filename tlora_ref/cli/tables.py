"""What several commands print: the memory they need, and the allocation."""

from __future__ import annotations

from pathlib import Path

import tlora_ref as tr
from tlora_ref.cli.screen import Screen, linear_algebra_line, size


def say_memory(screen: Screen, folder: Path, dtype: str, settings: tr.AdapterSettings | None = None) -> None:
    """What the command will need, said before anything large is read; with `settings`, for an adapter it will make."""
    memory = tr.plan_memory(folder, settings.rank if settings else 1, settings.targets if settings else None)
    need = memory.bytes(dtype)
    said = f"{memory.model_type}: {memory.weights:,} weights take {size(need['weights'])} in {dtype}"
    if settings is not None:
        held = size(need["covariances"] + need["covariances"])  # calibration's sums, and a sample's
        said += f"; covariances of {len(memory.shapes)} modules {held}, adapter {size(need['adapter'])}"
    screen.say(said)
    screen.say(f"linear algebra: {linear_algebra_line()}")


def show_plan(screen: Screen, plan: tr.Plan) -> None:
    """The allocation table: module, S, rank, alpha, scale, and what a rule beyond Eq. 6 and 7 changed."""
    rows = [
        (
            module,
            f"{plan.sensitivity[module]:.3e}",
            str(plan.rank[module]),
            f"{plan.alpha[module]:.3f}",
            f"{plan.scale(module):.4f}",
            plan.notes.get(module, ""),
        )
        for module in plan.rank
    ]
    screen.table("Allocation (Eq. 6, 7)", ("module", "S", "r", "alpha", "scale", "note"), rows)
    screen.say(
        f"profile {plan.profile}: ranks sum to {plan.spent} of {plan.budget}; B has "
        f"{plan.trainable_parameters:,} parameters (LoRA at rank {plan.r_init}, A and B: {plan.lora_parameters:,})"
    )
