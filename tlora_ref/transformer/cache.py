"""Keys and values of the tokens seen so far, for generation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array, array_module


class KeyValueCache:
    """Room for `capacity` tokens, filled from the left.

    Attributes
    ----------
    length : tokens of the passes completed
    ids : those tokens, host integers (batch, length); None before the first pass
    kept : how many of the last prompt's tokens were there already
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self.ids: Array | None = None
        self.kept = 0
        self._store: dict[str, list[Array]] = {}
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new k and v (batch, tokens, groups, d_head) of a layer; returns all so far."""
        keys, values = self._put(layer, k.data, v.data)
        stop = self.length + k.shape[1]
        return Tensor(keys[:, :stop]), Tensor(values[:, :stop])

    def latest(self, layer: str, x: Tensor, count: int) -> Array:
        """The `count` tokens before x (batch, tokens, d) as earlier passes gave them, zeros before the first of all;
        those of x are kept for the next pass."""
        (store,) = self._put(layer, x.data)
        before = store[:, max(0, self.length - count) : self.length]
        missing = array_module(x.data).zeros((x.shape[0], count - before.shape[1], x.shape[2]), dtype=x.dtype)
        return array_module(x.data).concatenate([missing, before], axis=1)

    def once(self, layer: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """k and v of what does not grow (an encoder's output): made at the first pass, kept for those after it."""
        if layer not in self._fixed:
            self._fixed[layer] = make()
        return self._fixed[layer]

    def restart(self) -> None:
        """Forget all tokens: the next pass brings them again."""
        self.length, self.ids = 0, None

    def keep_beginning(self, ids: Array, capacity: int) -> None:
        """Forget all tokens but those that `ids` (batch, tokens) begin with, the last of `ids` excepted, since a pass
        needs one; and make room for `capacity`."""
        if self.ids is not None and len(self.ids) == len(ids):
            common = min(self.length, ids.shape[1] - 1)
            same = (self.ids[:, :common] == ids[:, :common]).all(axis=0)
            self.length = common if same.all() else int(same.argmin())
            self.ids = self.ids[:, : self.length]
        else:
            self.restart()
            self._store = {}
        self.kept = self.length
        if capacity > self.capacity:
            self.capacity = capacity
            self._store = {layer: [self._grown(store) for store in stores] for layer, stores in self._store.items()}

    def advance(self, ids: Array) -> None:
        """A pass over the tokens `ids` (batch, tokens) is complete in all layers."""
        self.ids = ids if self.ids is None else np.concatenate([self.ids, ids], axis=1)
        self.length = self.ids.shape[1]

    def _put(self, layer: str, *new: Array) -> list[Array]:
        """The stores of a layer, (batch, capacity, ...) each, with `new` (batch, tokens, ...) after what is there."""
        if layer not in self._store:
            xp = array_module(*new)
            self._store[layer] = [xp.empty((len(x), self.capacity, *x.shape[2:]), dtype=x.dtype) for x in new]
        for store, x in zip(self._store[layer], new, strict=True):
            store[:, self.length : self.length + x.shape[1]] = x
        return self._store[layer]

    def _grown(self, store: Array) -> Array:
        xp = array_module(store)
        larger = xp.empty((len(store), self.capacity, *store.shape[2:]), dtype=store.dtype)
        larger[:, : self.length] = store[:, : self.length]
        return larger
