"""Primitives fused where a transformer wants them: norms, activations, rotary embedding, attention, cross entropy.

The legend and the rules of `basic` hold: `dy` is the cotangent of y; a VJP keeps only the arrays it mentions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from tlora_ref.autograd.basic import row_dot
from tlora_ref.autograd.tape import Tensor, record
from tlora_ref.backend import Array, array_module, erf
from tlora_ref.errors import ConfigError


# ---------------------------------------------------------------------------------------------- norms
def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """y = (offset + weight) * x / sqrt(mean(x^2) + eps) over the last axis (Zhang & Sennrich, arXiv 1910.07467, Eq. 4).

    x (..., d), weight (d,): y (..., d); offset 1 for Gemma. With n = x / rms and g = (offset + weight) * dy:
    dx = (g - n * mean(n * g)) / rms and dweight = sum(dy * n).
    """
    xp, w = array_module(x.data), weight.data + offset if offset else weight.data
    inverse_rms = 1.0 / xp.sqrt(row_dot(x.data, x.data) * (1.0 / w.size) + eps)  # (..., 1)
    normed = x.data * inverse_rms
    need_x, need_w = x.watched, weight.watched

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        dx = None
        if need_x:
            g = dy * w
            g -= normed * (row_dot(normed, g) * (1.0 / w.size))
            dx = g * inverse_rms
        return dx, (dy * normed).reshape(-1, w.size).sum(axis=0) if need_w else None

    return record(normed * w, (x, weight), vjp)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """y = weight * (x - mean) / sqrt(var + eps) + bias over the last axis (Ba et al., arXiv 1607.06450, Eq. 4).

    x (..., d), weight (d,), bias (d,) or None: y (..., d). The variance divides by d.
    """
    xp, w = array_module(x.data), weight.data
    centred = x.data - xp.mean(x.data, axis=-1, keepdims=True)
    inverse_std = 1.0 / xp.sqrt(row_dot(centred, centred) * (1.0 / w.size) + eps)  # (..., 1)
    normed = centred * inverse_std
    need_x, need_w, need_b = x.watched, weight.watched, bias is not None and bias.watched

    def vjp(dy: Array) -> tuple[Array | None, ...]:
        dx = None
        if need_x:
            g = dy * w
            g = g - xp.mean(g, axis=-1, keepdims=True)
            g -= normed * (row_dot(normed, g) * (1.0 / w.size))
            dx = g * inverse_std
        dw = (dy * normed).reshape(-1, w.size).sum(axis=0) if need_w else None
        db = dy.reshape(-1, w.size).sum(axis=0) if need_b else None
        return (dx, dw) if bias is None else (dx, dw, db)

    y = normed * w
    if bias is None:
        return record(y, (x, weight), vjp)
    y += bias.data
    return record(y, (x, weight, bias), vjp)


# ---------------------------------------------------------------------------------------------- activations
#: f(x), and f'(x) when it is asked for.
Activated: TypeAlias = tuple[Array, Callable[[], Array]]


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), by tanh: no overflow, and NumPy vectorises it."""
    y = x * 0.5
    array_module(x).tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


def _silu(x: Array) -> Activated:
    sigma = _sigmoid(x)

    def slope() -> Array:  # sigma * (1 + x * (1 - sigma))
        y = 1.0 - sigma
        y *= x
        y += 1.0
        y *= sigma
        return y

    return x * sigma, slope


def _relu(x: Array) -> Activated:
    positive = (x > 0).astype(x.dtype)
    return x * positive, lambda: positive


def _tanh(x: Array) -> Activated:
    y = array_module(x).tanh(x)
    return y, lambda: 1.0 - y * y


def _gelu(x: Array) -> Activated:
    """x Phi(x), Phi the normal distribution function: derivative Phi(x) + x phi(x)."""
    Phi = erf(x * math.sqrt(0.5)) * 0.5 + 0.5
    return x * Phi, lambda: Phi + x * array_module(x).exp(x * x * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))


def _gelu_tanh(x: Array) -> Activated:
    """0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3), with its derivative by the chain rule."""
    root = math.sqrt(2.0 / math.pi)
    square = x * x
    t = array_module(x).tanh(x * (square * 0.044715 + 1.0) * root)

    def slope() -> Array:
        du = (square * (3.0 * 0.044715) + 1.0) * root
        return (t + 1.0) * 0.5 + x * (1.0 - t * t) * du * 0.5

    return x * (t + 1.0) * 0.5, slope


#: Activation by the name that Hugging Face configurations use.
ACTIVATIONS: dict[str, Callable[[Array], Activated]] = {
    "silu": _silu,
    "swish": _silu,
    "relu": _relu,
    "tanh": _tanh,
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
}


def check_activation(kind: str) -> str:
    """`kind`, or a ConfigError that lists the activations there are."""
    if kind not in ACTIVATIONS:
        raise ConfigError(f'activation "{kind}" is not implemented: expected one of {", ".join(sorted(ACTIVATIONS))}')
    return kind


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """y = cap tanh(x / cap): between -cap and cap, and x where that is small (Gemma 2, arXiv 2408.00118, section 2)."""
    t = array_module(x.data).tanh(x.data * (1.0 / cap))

    def vjp(dy: Array) -> tuple[Array]:
        return (dy * (1.0 - t * t),)

    return record(t * cap, (x,), vjp)


def activation(x: Tensor, kind: str) -> Tensor:
    """y = f(x) for an activation of the table, elementwise."""
    f = ACTIVATIONS[kind]
    saved = x.data

    def vjp(dy: Array) -> tuple[Array]:
        return (dy * f(saved)[1](),)

    return record(f(x.data)[0], (x,), vjp)


def gated(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """y = f(gate) * up: SwiGLU for f = silu (Shazeer, arXiv 2002.05202). f is computed again in the VJP, not saved."""
    f = ACTIVATIONS[kind]
    g, need_up = gate.data, up.watched
    saved_u = up.data if gate.watched else None

    def vjp(dy: Array) -> tuple[Array | None, Array | None]:
        value, slope = f(g)
        if saved_u is None:
            return None, dy * value
        dg = dy * saved_u
        dg *= slope()
        return dg, dy * value if need_up else None

    return record(f(g)[0] * up.data, (gate, up), vjp)


# ---------------------------------------------------------------------------------------------- rotary embedding
def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turns the pairs (x_i, x_{i+half}) of the first 2*half channels by their angles; the other channels pass.

    (first, second) * (cos, cos) + (second, first) * (-sin, sin): over whole heads, as loops over halves are short.
    """
    xp, half = array_module(x), cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = xp.concatenate([second, first], axis=-1)
    turned *= xp.concatenate([-sin, sin], axis=-1)
    turned += x[..., : 2 * half] * xp.concatenate([cos, cos], axis=-1)
    return turned if 2 * half == x.shape[-1] else xp.concatenate([turned, x[..., 2 * half :]], axis=-1)


def rotary(x: Tensor, cos: Array, sin: Array) -> Tensor:
    """Rotary position embedding (Su et al., arXiv 2104.09864, Eq. 34, in the half-split layout of Llama).

    x (batch, tokens, heads, d_head); cos, sin (batch or 1, tokens, 1, half), 2*half <= d_head. A rotation is
    orthogonal (times the attention factor that cos and sin carry): its VJP turns back by the same angles.
    """

    def vjp(dy: Array) -> tuple[Array]:
        return (_rotate(dy, cos, -sin),)

    return record(_rotate(x.data, cos, sin), (x,), vjp)
