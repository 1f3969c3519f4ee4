"""Keys and values of the tokens seen so far, for generation."""

from __future__ import annotations

from collections.abc import Callable

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array, array_module


class KeyValueCache:
    """Room for `capacity` tokens, filled from the left. `length` counts the tokens of the passes completed."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._store: dict[str, tuple[Array, Array]] = {}
        self._fixed: dict[str, tuple[Tensor, Tensor]] = {}
        self._latest: dict[str, Array] = {}

    def extend(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new k and v (batch, tokens, groups, d_head) of a layer; returns all so far."""
        xp = array_module(k.data)
        if layer not in self._store:
            shapes = [(t.shape[0], self.capacity, *t.shape[2:]) for t in (k, v)]
            self._store[layer] = (xp.empty(shapes[0], dtype=k.dtype), xp.empty(shapes[1], dtype=v.dtype))
        keys, values = self._store[layer]
        stop = self.length + k.shape[1]
        keys[:, self.length : stop] = k.data
        values[:, self.length : stop] = v.data
        return Tensor(keys[:, :stop]), Tensor(values[:, :stop])

    def latest(self, layer: str, x: Tensor, count: int) -> Array:
        """The `count` tokens before x (batch, tokens, d) as earlier passes gave them, zeros before the first of all;
        those of x are kept for the next pass."""
        xp = array_module(x.data)
        before = self._latest.get(layer)
        if before is None or self.length == 0:
            before = xp.zeros((x.shape[0], count, x.shape[2]), dtype=x.dtype)
        self._latest[layer] = xp.concatenate([before, x.data], axis=1)[:, x.shape[1] :]
        return before

    def once(self, layer: str, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """k and v of what does not grow (an encoder's output): made at the first pass, kept for those after it."""
        if layer not in self._fixed:
            self._fixed[layer] = make()
        return self._fixed[layer]

    def restart(self) -> None:
        """Forget all tokens: the next pass brings them again."""
        self.length = 0

    def advance(self, tokens: int) -> None:
        """A pass over `tokens` tokens is complete in all layers."""
        self.length += tokens
