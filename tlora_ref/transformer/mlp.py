"""The inside of an MLP, which is several times as wide as what goes in: kept for the way back, or computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tlora_ref.autograd import Tensor, gated, recomputed, split
from tlora_ref.transformer.model import Model


def inside_mlp(model: Model, modules: Sequence[str], x: Tensor, combine: Callable[..., Tensor]) -> Tensor:
    """combine(each linear module applied to x): what the MLP's last module is given, as f(gate(x)) * up(x).

    x (..., d_model) -> (..., d_ff). Where `model.recompute` is set, x alone is kept of it for the way back, and not
    what the modules give: d_model numbers a token in place of d_ff or 2 d_ff (selective recomputation, Korthikanti et
    al., arXiv 2205.05198, of the widest part of a layer). All bits are the same.
    """
    if not model.recompute:
        return combine(*(model.linear(module, x) for module in modules))
    for module in modules:
        model.observe(module, x)
    bound = [model.bound(module) for module in modules]  # weights and adapter of this moment, for both times

    def again(*each: Tensor) -> Tensor:
        return combine(*(linear(x) for linear, x in zip(bound, each, strict=True)))

    return recomputed(again, *[x] * len(bound))  # once a use, so that gradients add up in the same order


def gated_halves(both: Tensor, kind: str) -> Tensor:
    """f(gate) * up of what one module gives for the two: both (..., 2 d_ff), gate before up -> (..., d_ff)."""
    d_ff = both.shape[-1] // 2
    gate, up = split(both, [d_ff, d_ff])
    return gated(gate, up, kind)
