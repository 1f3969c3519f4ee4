"""A part of a forward pass that keeps its inputs alone, and is computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

from tlora_ref.autograd.tape import Node, Tensor, leaf, leaves, sweep
from tlora_ref.backend import Array


def recomputed(part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """y = part(*inputs), of which the inputs alone are kept ("gradient checkpointing", Chen et al., arXiv 1604.06174).

    What the VJPs inside `part` save goes as soon as y is there. The VJP of the whole runs `part` again, which saves it
    anew, and sweeps back through that. The bits are those of part(*inputs). (The sum of an input's gradients may be
    added up in another order where it is used several times inside and outside too: give it once a use.)

    Parameters
    ----------
    part : computes the same each time; may read leaves, and constants, beside its inputs
    inputs : of any shape and dtype
    """
    outside = {f"(input {i})": x.node for i, x in enumerate(inputs)}  # inside they are leaves of these names
    arrays = [(x.data, name if x.watched else None) for name, x in zip(outside, inputs, strict=True)]
    context = copy_context()  # the second run rounds as the first does (`stored_as`), and minds the same np.errstate

    def run() -> Tensor:
        return context.run(part, *(Tensor(x) if name is None else leaf(x, name) for x, name in arrays))

    y = run()
    if y.node is None:
        return y
    inside = leaves(y.node)
    names, parents = list(inside), tuple(outside.get(name, node) for name, node in inside.items())

    def vjp(dy: Array) -> list[Array]:
        found: dict[str, Array] = {}
        node = run().node
        assert node is not None  # it was there the first time
        sweep(node, dy, found.__setitem__)
        return [found[name] for name in names]

    return Tensor(y.data, Node(parents, vjp))
