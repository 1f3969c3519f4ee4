"""The tape: what a forward pass leaves behind, and the sweep that turns it into gradients.

A `Tensor` is an array and, if something it was computed from is watched, a `Node`. A node knows its parents and one
function, the vector-Jacobian product (VJP) that maps the cotangent of its output to those of its parents. A node does
NOT hold the values of its parents: an activation lives on only if a VJP saved it, and a VJP saves only what the
gradients that were asked for need. So with W frozen, `linear` keeps nothing at all.

There is no global tape. The graph is the nodes themselves, so two threads may record side by side, and the memory of a
pass goes when its loss goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tlora_ref.autograd.elsewhere import is_stored, stored
from tlora_ref.backend import Array, array_module
from tlora_ref.errors import GraphError, ShapeError

#: Maps the cotangent of an output to one cotangent a parent, None where the parent needs none.
VJP = Callable[[Array], Sequence["Array | None"]]


class Node:
    """One recorded operation, or a leaf (`name` set, no VJP, no parents).

    `key` identifies it in the sweep: the name for leaves, so that all uses of a tied weight add up.
    """

    __slots__ = ("key", "name", "parents", "vjp")

    def __init__(self, parents: tuple[Node | None, ...], vjp: VJP | None, name: str | None = None) -> None:
        self.parents = parents
        self.vjp = vjp
        self.name = name
        self.key: object = id(self) if name is None else name


class Tensor:
    """An array, with the node that made it if gradients flow through it.

    Parameters
    ----------
    data : array of any shape
    node : the recorded operation, or None for a constant
    """

    __slots__ = ("data", "node")

    def __init__(self, data: Array, node: Node | None = None) -> None:
        self.data = data
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def watched(self) -> bool:
        """Whether a gradient can flow back through this tensor."""
        return self.node is not None

    def item(self) -> float:
        """The value of a tensor of one element, as a Python float."""
        return float(self.data.item())

    def __float__(self) -> float:
        return self.item()

    def __repr__(self) -> str:
        what = f"{self.item():.6g}" if self.data.ndim == 0 else f"shape={self.shape}"
        return f"Tensor({what}, dtype={self.dtype}, {'watched' if self.watched else 'constant'})"


def leaf(data: Array, name: str) -> Tensor:
    """A tensor whose gradient can be asked for by `name`. Leaves of one name (a tied weight) share one gradient."""
    return Tensor(data, Node((), None, name))


def record(data: Array, parents: Sequence[Tensor], vjp: VJP) -> Tensor:
    """`data` as the output of an operation on `parents`; a constant (and `vjp` forgotten) if none is watched."""
    data = stored(data)
    for parent in parents:
        if parent.node is not None:
            return Tensor(data, Node(tuple(parent.node for parent in parents), _storing(vjp) if is_stored() else vjp))
    return Tensor(data)


def _storing(vjp: VJP) -> VJP:
    """`vjp` whose cotangents are handed on rounded."""
    return lambda dy: [None if x is None else stored(x) for x in vjp(dy)]


def _count_uses(root: Node) -> dict[object, int]:
    """For each node that `root` depends on, how many times it is used as a parent (iterative: depth is no limit)."""
    uses: dict[object, int] = {root.key: 0}
    stack = [root]
    while stack:
        for parent in stack.pop().parents:
            if parent is None:
                continue
            if parent.key not in uses:
                uses[parent.key] = 0
                stack.append(parent)
            uses[parent.key] += 1
    return uses


def leaves(root: Node) -> dict[str, Node]:
    """The leaves that `root` depends on, by name."""
    found: dict[str, Node] = {}
    seen, stack = {root.key}, [root]
    while stack:
        node = stack.pop()
        if node.vjp is None:
            found[str(node.name)] = node
        for parent in node.parents:
            if parent is not None and parent.key not in seen:
                seen.add(parent.key)
                stack.append(parent)
    return found


def backward(loss: Tensor, deliver: Callable[[str, Array], None]) -> None:
    """Reverse sweep from a loss: calls `deliver(name, gradient)` once for every leaf; see `sweep`.

    Raises
    ------
    GraphError
        if `loss` depends on no leaf.
    ShapeError
        if `loss` is not a scalar, or a VJP returns a cotangent of the wrong count.
    """
    if loss.data.size != 1:
        raise ShapeError(f"backward needs a scalar, got shape {loss.shape}: reduce it to one number first")
    if loss.node is None:
        raise GraphError("the loss depends on no watched tensor: watch one (model.watching) before the forward pass")
    sweep(loss.node, array_module(loss.data).ones_like(loss.data), deliver)


def sweep(root: Node, cotangent: Array, deliver: Callable[[str, Array], None]) -> None:
    """Reverse sweep from `root`, whose output has this cotangent: calls `deliver(name, gradient)` once for every leaf,
    as soon as its gradient is complete.

    Nothing is kept here after delivery, so a caller who reduces each weight's gradient to a number never holds two of
    them (Eq. 5 needs no more). A node is handled when all its uses have been (Kahn's order), with no recursion.
    """
    waiting = _count_uses(root)
    cotangents: dict[object, Array] = {root.key: cotangent}
    ready = [root]
    while ready:
        node = ready.pop()
        cotangent = cotangents.pop(node.key)
        if node.vjp is None:
            deliver(str(node.name), cotangent)
            continue
        contributions = node.vjp(cotangent)
        if len(contributions) != len(node.parents):
            raise ShapeError(f"a VJP returned {len(contributions)} cotangents for {len(node.parents)} parents")
        for parent, contribution in zip(node.parents, contributions, strict=True):
            if parent is None:
                continue
            key = parent.key
            if contribution is None:
                raise GraphError(f"a VJP returned no cotangent for a watched parent ({parent.name or 'intermediate'})")
            # Never in place: a cotangent may be shared with, or be a view of, another one.
            cotangents[key] = contribution if key not in cotangents else cotangents[key] + contribution
            waiting[key] -= 1
            if waiting[key] == 0:
                ready.append(parent)


def grad(loss: Tensor, names: Iterable[str]) -> dict[str, Array]:
    """dLoss/dW for the named leaves.

    Parameters
    ----------
    loss : Tensor of one element
    names : tensor names ("model.layers.0.self_attn.q_proj.weight"); a module's path stands for its weight

    Returns
    -------
    dict of arrays, in the order of `names`, each of its tensor's shape and dtype

    Raises
    ------
    GraphError
        if the loss does not depend on a name that was asked for: that is a mistake, not a zero.
    """
    wanted = list(names)
    accepted = {tensor for name in wanted for tensor in (name, f"{name}.weight")}
    found: dict[str, Array] = {}

    def deliver(name: str, gradient: Array) -> None:
        if name in accepted:
            found[name] = gradient

    backward(loss, deliver)
    gradients = {name: found[tensor] for name in wanted for tensor in (f"{name}.weight", name) if tensor in found}
    missing = [name for name in wanted if name not in gradients]
    if missing:
        raise GraphError(
            f"the loss does not depend on {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}: "
            "no such tensor took part in the forward pass, or it was not watched"
        )
    return gradients
