"""A number that comes in an array of one entry, shape (1,), is a number: some frameworks and formats know no other."""

from __future__ import annotations

from tlora_ref.backend import Array


def unwrapped(array: Array, shape: tuple[object, ...] | None) -> Array:
    """`array` as a number, of shape (), where `shape` asks for one and it holds one on one axis; else as it is."""
    return array.reshape(()) if shape == () and array.shape == (1,) else array
