"""What a panel's numbers mean, in a sentence or two about one module; every number in them is from the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlora_ref.adapter import Plan
from tlora_ref.explanation.choices import Choices, Spectra
from tlora_ref.explanation.update import Update

#: Below this a part of an update is rounding: float32 holds seven digits, and products of hundreds of terms lose three.
ROUNDING = 1e-3


def of_sensitivity(plan: Plan, module: str) -> str:
    """Where the module's S stands among all."""
    S = plan.sensitivity[module]
    place = 1 + sum(other > S for other in plan.sensitivity.values())
    times = plan.share[module] * len(plan.share)
    return (
        f"S = {S:.3g}, {times:.2f} times the average: number {place} of {len(plan.share)} modules. To first "
        f"order an entry of W that is scaled by 1 % changes a sample's loss by {S / 100:.1e} on average, up or down."
    )


def of_spectrum(spectra: Spectra, rank: int) -> str:
    """How few directions hold the inputs, and what of W C the first `rank` hold."""
    C, WC = spectra.C, spectra.WC
    rank = min(rank, len(WC))
    if not C.any() or not WC.any():
        return "C or W C is zero: these samples send nothing through this module."
    held = float(C[:rank].sum() / C.sum())
    energy = float((WC[:rank] ** 2).sum() / (WC**2).sum())
    return (
        f"The {rank} largest of {len(C)} eigenvalues of C hold {held:.1%} of what comes in, the first alone "
        f"{float(C[0] / C.sum()):.1%}; {rank} singular values of W C hold {energy:.2%} of its squared norm. "
        "The more they hold, the less a small rank leaves out."
    )


def of_allocation(plan: Plan, module: str) -> str:
    """From the share to the rank and the scale, with the rounding shown."""
    wanted, given, rank = plan.budget * plan.share[module], plan.rank_eq6[module], plan.rank[module]
    said = f"{plan.budget} ranks times a share of {plan.share[module]:.3%} is {wanted:.3f}, rounded to {given}"
    if not plan.adapt_rank or rank != given:
        said += f"; used: {rank}"
    if module in plan.notes:
        said += f" ({plan.notes[module]})"
    said += f". The scale is {plan.scale(module):.4f}, plain LoRA's {plan.alpha_init / plan.r_init:g}."
    return said + (" Rank 0: this module gets no adapter." if rank == 0 else "")


def of_choices(found: Choices | None) -> str:
    """What W C captures, beside the optimum and what knows less."""
    if found is None:
        return "W C is zero, so there is nothing that an A could capture."
    best = max(("W C", "W-SVD", "random"), key=lambda name: found.share[name])
    ahead = "more" if found.share["W C"] > found.share["W-SVD"] else "no more"
    short, long = found.lengths
    suited = ": no one learning rate suits them all" if long > 2.0 * short else ""
    return (
        f"At rank {found.rank}, with W_0 in place of the unknown update D, W C captures {found.share['W C']:.1%} of "
        f"what is possible, {ahead} than W-SVD ({found.share['W-SVD']:.1%}); after the theory, which was made for this "
        f"measure, {best} is best. The rows of W C have length 1, the theory's from {short:.3g} to "
        f"{long:.3g}{suited}."
    )


def of_similarity(found: Choices | None) -> str:
    """phi between the method's directions and the theory's."""
    if found is None:
        return "W C is zero, so there are no subspaces to compare."
    return (
        f"The singular vectors of W C and of W C^1/2 agree to phi = {found.phi_directions:.3f} (the paper's mean on "
        "Llama-2-7B is 0.908). The table compares the row spaces of the four A themselves."
    )


def of_training(history: Sequence[dict[str, Any]], trained: str) -> str:
    """What the first steps did to the loss."""
    first, last = history[0], history[-1]
    what = "B alone" if trained == "B" else "A and B"
    return (
        f"Training {what}: loss {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step "
        f"{last['step']}, each on its own batch. B starts at zero, so the first loss is the model's own. So few steps "
        "show where an update lies, not what training reaches; --steps makes more."
    )


def of_update(found: Update | None, trained: str) -> str:
    """Where the update lies."""
    if found is None:
        return "This module got rank 0, so it has no update."
    if found.norm == 0.0:
        return "The steps made left B at zero, so there is no update yet."
    size = f"The update's norm is {found.relative:.3g} of the weight's"
    if trained == "AB":
        return f"{size}; {found.outside:.1%} of it lies outside the row space that A began with: A was trained too."
    said = f"{size}; outside A's row space lies {found.outside:.1e} of it"
    said += ", which is rounding" if found.outside < ROUNDING else ""
    most = int(np.argmax(found.rows))
    return (
        f"{said}. By chance a direction would lie in that space with a share of {found.by_chance:.1%}. Row {most + 1} "
        f"of A carries most, {float(found.rows[most]):.1%}."
    )
