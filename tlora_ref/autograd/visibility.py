"""Which keys a query may see: causal, windows, padding, samples that share a row; block by block, as masks.

Legend: B batch, T queries, S keys, G key/value heads, R query heads a group (G * R query heads), D channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tlora_ref.backend import Array, array_module

#: Queries handled at once: a block of scores is (B, G, R, BLOCK, S), and keys after a causal block are never touched.
BLOCK = 128
#: Scores of a head up to which masks are kept for the next layer; longer sequences have other things to do.
KEPT = 2**20


@dataclass(frozen=True)
class Visibility:
    """Which keys a query may see.

    Query t stands at position `S - T + t` among the keys (with a key cache, T < S). `keys` (B, S) is False at padding;
    `window` is the number of latest positions that a query sees, itself included; without `causal`, as many on its
    other side too. `first` (B, T), on the host, is the first key that each query may see: where its sample begins, if
    several stand in one row.
    """

    causal: bool = False
    window: int | None = None
    keys: Array | None = None
    first: Array | None = None

    def span(self, start: int, stop: int, offset: int, S: int) -> tuple[int, int]:
        """The keys [low, high) that any of the queries [start, stop) may see."""
        reach = S if self.window is None else self.window - 1  # how far a query sees
        high = min(S, max(0, offset + stop + (0 if self.causal else reach)))
        begins = 0 if self.first is None else int(self.first[:, start:stop].min())
        return max(begins, offset + start - reach), high

    def allowed(self, xp: Any, queries: tuple[int, int], keys: tuple[int, int], offset: int) -> Array | None:
        """True where a query sees a key, broadcastable to (B, G, R, queries, keys); None where all do."""
        (start, stop), (low, high) = queries, keys
        mask = None
        furthest = max(offset + stop - 1 - low, high - 1 - offset - start)
        needs_window = self.window is not None and furthest >= self.window
        if (self.causal and high - 1 > offset + start) or needs_window:
            distance = (xp.arange(start, stop) + offset)[:, None] - xp.arange(low, high)[None, :]
            mask = xp.ones(distance.shape, dtype=bool)
            if self.causal:
                mask &= distance >= 0
            if self.window is not None:
                mask &= (distance if self.causal else abs(distance)) < self.window
        if self.first is not None:
            begun = np.arange(low, high) >= self.first[:, start:stop, None]  # (B, queries, keys)
            begun = xp.asarray(begun[:, None, None])
            mask = begun if mask is None else begun & mask
        if self.keys is None:
            return mask
        visible = self.keys[:, None, None, None, low:high]  # (B, 1, 1, 1, keys)
        return visible if mask is None else visible & mask


@dataclass(frozen=True)
class Mask:
    """The keys of a block from the first to the last that some query does not see, and which are seen there.

    visible : 1 where seen, 0 where not; penalty : 0 and -inf. Both broadcast to (B, G, R, queries, keys).
    """

    keys: slice
    visible: Array
    penalty: Array

    @classmethod
    def of(cls, allowed: Array | None, dtype: Any) -> Mask | None:
        """From booleans, True where seen; None where all are."""
        if allowed is None:
            return None
        xp, keys = array_module(allowed), slice(0, allowed.shape[-1])
        if xp is np:  # a device would have to be waited for
            unseen = np.nonzero(~allowed.reshape(-1, allowed.shape[-1]).all(axis=0))[0]
            if unseen.size == 0:
                return None
            if 2 * (unseen[-1] + 1 - unseen[0]) < allowed.shape[-1]:  # else a part is no faster than all of them
                keys = slice(int(unseen[0]), int(unseen[-1]) + 1)
        allowed = allowed[..., keys]
        penalty = xp.zeros(allowed.shape, dtype=dtype)
        penalty[~allowed] = -xp.inf
        return cls(keys, allowed.astype(dtype), penalty)

    def of_samples(self, samples: slice) -> Mask:
        """That of some samples of the batch."""
        if self.visible.ndim < 5 or self.visible.shape[0] == 1:
            return self
        return Mask(self.keys, self.visible[samples], self.penalty[samples])


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) against keys [low, high), and which of these they may see (None: all)."""

    rows: slice
    keys: slice
    mask: Mask | None

    @property
    def scores(self) -> int:
        """How many scores a head has here."""
        return (self.rows.stop - self.rows.start) * (self.keys.stop - self.keys.start)


def query_blocks(q: Array, S: int, see: Visibility) -> Sequence[Block]:
    """All blocks of the queries q (B, G, R, T, D), in order."""
    xp, T = array_module(q), q.shape[-2]
    if xp is np and see.keys is None and see.first is None and T * S <= KEPT:
        return _kept_blocks(T, S, see, q.dtype, BLOCK)
    return _blocks(xp, T, S, see, q.dtype, BLOCK)


@lru_cache(maxsize=4)
def _kept_blocks(T: int, S: int, see: Visibility, dtype: Any, size: int) -> tuple[Block, ...]:
    """The blocks of a batch without padding: all its layers, forth and back, have the same."""
    return _blocks(np, T, S, see, dtype, size)


def _blocks(xp: Any, T: int, S: int, see: Visibility, dtype: Any, size: int) -> tuple[Block, ...]:
    found = []
    for start in range(0, T, size):
        stop = min(T, start + size)
        low, high = see.span(start, stop, S - T, S)
        allowed = see.allowed(xp, (start, stop), (low, high), S - T)
        found.append(Block(slice(start, stop), slice(low, high), Mask.of(allowed, dtype)))
    return tuple(found)
