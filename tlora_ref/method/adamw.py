"""AdamW, one step, written out."""

from __future__ import annotations

from tlora_ref.backend import Array, array_module
from tlora_ref.errors import ConfigError, ShapeError


def clip_factor(norm: float, max_norm: float) -> float:
    """What every gradient is multiplied with, so that their common 2-norm is `max_norm` at most.

    torch.nn.utils.clip_grad_norm_'s rule, its 1e-6 included: min(1, max_norm / (norm + 1e-6)).
    """
    return min(1.0, max_norm / (norm + 1e-6))


def adamw_step(
    B: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Array, Array, Array]:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101, Alg. 2), with torch's defaults where the paper is silent.

        m = beta1 m + (1 - beta1) g           m^ = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2         v^ = v / (1 - beta2^t)
        B = B - lr * weight_decay * B - lr * m^ / (sqrt(v^) + eps)

    Parameters
    ----------
    B, grad, exp_avg (m), exp_avg_sq (v) : arrays of one shape; none is changed
    step : t, 1 for the first step

    Returns
    -------
    the new B, exp_avg, exp_avg_sq

    Raises
    ------
    ShapeError
        if the four shapes differ.
    ConfigError
        if `step` is not at least 1: the bias correction divides by 1 - beta^t.
    """
    if not B.shape == grad.shape == exp_avg.shape == exp_avg_sq.shape:
        raise ShapeError(
            f"adamw_step: B is {B.shape}, grad {grad.shape}, exp_avg {exp_avg.shape}, exp_avg_sq {exp_avg_sq.shape}: "
            "all four must agree"
        )
    if step < 1:
        raise ConfigError(f"adamw_step: step is {step}, expected 1 for the first step")
    beta1, beta2 = betas
    m = exp_avg * beta1 + grad * (1.0 - beta1)
    v = exp_avg_sq * beta2 + grad * grad * (1.0 - beta2)
    m_hat = m * (1.0 / (1.0 - beta1**step))
    v_hat = v * (1.0 / (1.0 - beta2**step))
    decayed = B * (1.0 - lr * weight_decay)
    return decayed - m_hat / (array_module(v).sqrt(v_hat) + eps) * lr, m, v
