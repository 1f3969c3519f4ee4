"""A gradient checker for anybody's primitive: the VJP against central differences, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from tlora_ref.autograd.tape import Tensor, grad, leaf, record
from tlora_ref.backend import Array, asarray, to_numpy
from tlora_ref.errors import NumericsError, ShapeError


def _projected(f: Callable[..., Tensor], tensors: Sequence[Tensor], seed: int) -> Tensor:
    """<cotangent, f(tensors)> for a random cotangent: a scalar tensor whose VJP hands that cotangent to f."""
    y = f(*tensors)
    weight = asarray(np.random.default_rng(seed).standard_normal(y.shape), like=y.data, dtype=y.dtype)

    def vjp(dy: Array) -> tuple[Array]:
        return (weight * dy,)

    return record((y.data * weight).sum(), (y,), vjp)


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Array],
    *,
    step: float = 1e-5,
    rtol: float = 1e-7,
    atol: float = 1e-7,
    seed: int = 0,
) -> None:
    """Check the VJP of `f` at `inputs`.

    The output is projected on a random cotangent, never on ones: a wrong softmax VJP that returns zeros passes a
    check by `.sum()`. Every entry of every input is moved by +-step and the central difference compared with the
    gradient, to `atol * max(1, largest gradient entry) + rtol * |gradient|`. Each input is also watched alone, with
    the others constant, and must get the same gradient: what a VJP saves depends on what is watched.

    Parameters
    ----------
    f : Tensors -> Tensor
    inputs : float64 arrays, one a tensor (they are not changed)

    Raises
    ------
    ShapeError
        if an input is not float64 (differences need its precision), or a gradient has another shape than its input.
    NumericsError
        naming the input and entry where the two disagree most.
    """
    arrays = [to_numpy(x).copy() for x in inputs]
    for i, x in enumerate(arrays):
        if x.dtype != np.float64:
            raise ShapeError(f"gradcheck: input {i} is {x.dtype}, expected float64")

    def value(watched: Collection[int]) -> Tensor:
        placed = [asarray(x, like=inputs[i]) for i, x in enumerate(arrays)]
        tensors = [leaf(x, f"input{i}") if i in watched else Tensor(x) for i, x in enumerate(placed)]
        return _projected(f, tensors, seed)

    every = range(len(arrays))
    together = grad(value(every), [f"input{i}" for i in every])
    for i, x in enumerate(arrays):
        numeric = _central_differences(lambda: value(()).item(), x, step)
        alone = grad(value((i,)), [f"input{i}"])[f"input{i}"]
        for what, got in ((f"input {i}", together[f"input{i}"]), (f"input {i} watched alone", alone)):
            _compare(what, to_numpy(got), numeric, rtol, atol)


def _central_differences(value: Callable[[], float], x: Array, step: float) -> Array:
    """d value / d x, each entry of `x` moved by +-step in place and put back."""
    slope = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        x[index] = kept + step
        above = value()
        x[index] = kept - step
        below = value()
        x[index] = kept
        slope[index] = (above - below) / (2 * step)
    return slope


def _compare(what: str, got: Array, expected: Array, rtol: float, atol: float) -> None:
    """Raise at the entry where `got` is furthest outside of what is allowed around `expected`."""
    if got.shape != expected.shape:
        raise ShapeError(f"gradcheck: the gradient of {what} has shape {got.shape}, expected {expected.shape}")
    allowed = atol * max(1.0, float(np.abs(expected).max(initial=0.0))) + rtol * np.abs(expected)
    excess = np.nan_to_num(np.abs(got - expected) - allowed, nan=np.inf)
    if excess.size and excess.max() > 0:
        worst = np.unravel_index(int(excess.argmax()), excess.shape)
        raise NumericsError(
            f"gradcheck: {what}, entry {tuple(int(n) for n in worst)}: the VJP gives {got[worst]:.12g}, central "
            f"differences {expected[worst]:.12g} (allowed difference {allowed[worst]:.2g})"
        )
