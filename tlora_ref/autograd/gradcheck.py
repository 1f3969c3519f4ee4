"""A gradient checker for anybody's primitive: the VJP against central differences, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tlora_ref.autograd.tape import Tensor, grad, leaf, record
from tlora_ref.backend import Array, asarray, to_numpy
from tlora_ref.errors import NumericsError, ShapeError


def _projected(f: Callable[..., Tensor], tensors: Sequence[Tensor], cotangent: Array) -> Tensor:
    """<cotangent, f(tensors)> as a scalar tensor whose VJP hands `cotangent` to f."""
    y = f(*tensors)
    weight = asarray(cotangent, like=y.data, dtype=y.dtype)

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

    def tensors(watched: set[int]) -> list[Tensor]:
        placed = [asarray(x, like=inputs[i]) for i, x in enumerate(arrays)]
        return [leaf(x, f"input{i}") if i in watched else Tensor(x) for i, x in enumerate(placed)]

    cotangent = np.random.default_rng(seed).standard_normal(f(*tensors(set())).shape)
    every = set(range(len(arrays)))
    together = grad(_projected(f, tensors(every), cotangent), [f"input{i}" for i in every])
    for i, x in enumerate(arrays):
        gradient = to_numpy(together[f"input{i}"])
        if gradient.shape != x.shape:
            raise ShapeError(f"gradcheck: the gradient of input {i} has shape {gradient.shape}, expected {x.shape}")
        alone = to_numpy(grad(_projected(f, tensors({i}), cotangent), [f"input{i}"])[f"input{i}"])
        numeric = np.empty_like(x)
        for index in np.ndindex(*x.shape):
            kept = x[index]
            x[index] = kept + step
            above = _projected(f, tensors(set()), cotangent).item()
            x[index] = kept - step
            below = _projected(f, tensors(set()), cotangent).item()
            x[index] = kept
            numeric[index] = (above - below) / (2 * step)
        allowed = atol * max(1.0, float(np.abs(numeric).max(initial=0.0))) + rtol * np.abs(numeric)
        for what, got in (("", gradient), (" watched alone", alone)):
            excess = np.abs(got - numeric) - allowed
            if excess.size and not excess.max() <= 0:
                worst = np.unravel_index(int(np.nan_to_num(excess, nan=np.inf).argmax()), excess.shape)
                raise NumericsError(
                    f"gradcheck: input {i}{what}, entry {tuple(int(n) for n in worst)}: the VJP gives "
                    f"{got[worst]:.12g}, central differences {numeric[worst]:.12g} (allowed {allowed[worst]:.2g})"
                )
