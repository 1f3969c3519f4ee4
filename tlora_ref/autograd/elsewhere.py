"""Arithmetic as other programs do it: every result rounded to a storage, sums of exponentials made plainly.

Nothing is rounded here unless it is asked for. The oracle asks, to measure what a lower precision costs: inside
`stored_as` every operation computes as it does and then rounds what it hands on, forwards and backwards, as kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tlora_ref.backend import Array, array_module

_storage: ContextVar[Callable[[Array], Array] | None] = ContextVar("storage", default=None)
_plain: ContextVar[bool] = ContextVar("plain", default=False)

#: An addition in float32 is off by at most this share of its result.
HALF_UNIT = 2.0**-24


@contextmanager
def stored_as(rounded: Callable[[Array], Array]) -> Iterator[None]:
    """Meanwhile every array that an operation hands on is `rounded` first."""
    token = _storage.set(rounded)
    try:
        yield
    finally:
        _storage.reset(token)


@contextmanager
def plain_sums() -> Iterator[None]:
    """Meanwhile a sum of exponentials lacks the most that adding its terms one by one in float32 may lose of it."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def stored(x: Array) -> Array:
    """`x`, rounded if that is asked for; a number alone is kept as it is (losses are handed on in float32)."""
    rounded = _storage.get()
    return x if rounded is None or x.ndim == 0 else rounded(x)


def is_stored() -> bool:
    """Whether results are rounded just now."""
    return _storage.get() is not None


def total(terms: Array) -> Array:
    """The sum of positive terms over the last axis, kept as one of length 1.

    Made plainly, each addition loses at most half a unit of the sum, and at most the term that it adds: whatever the
    order, min(2^-24 sum, term) bounds it.
    """
    right: Array = terms.sum(axis=-1, keepdims=True)
    if not _plain.get():
        return right
    return right - array_module(terms).minimum(terms, HALF_UNIT * right).sum(axis=-1, keepdims=True)
