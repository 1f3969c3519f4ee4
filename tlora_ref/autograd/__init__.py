"""A minimal reverse-mode autograd: a tape (`tape`), primitives with their VJPs (`basic`, `fused`, `attention`, `loss`)
and a public gradient checker (`gradcheck`)."""

from tlora_ref.autograd.attention import attention
from tlora_ref.autograd.basic import (
    add,
    bucket_bias,
    embedding,
    linear,
    low_rank_linear,
    multiply,
    reshape,
    scale,
    split,
    take_rows,
    transpose,
    weighted_sum,
)
from tlora_ref.autograd.convolution import causal_convolution
from tlora_ref.autograd.elsewhere import plain_sums, stored_as
from tlora_ref.autograd.fused import activation, check_activation, gated, layer_norm, rms_norm, rotary, soft_cap
from tlora_ref.autograd.gradcheck import gradcheck
from tlora_ref.autograd.loss import cross_entropy, linear_cross_entropy
from tlora_ref.autograd.recompute import recomputed
from tlora_ref.autograd.relative import position_scores
from tlora_ref.autograd.tape import Tensor, backward, grad, leaf, record
from tlora_ref.autograd.visibility import Visibility

__all__ = [
    "Tensor",
    "Visibility",
    "activation",
    "add",
    "attention",
    "backward",
    "bucket_bias",
    "causal_convolution",
    "check_activation",
    "cross_entropy",
    "embedding",
    "gated",
    "grad",
    "gradcheck",
    "layer_norm",
    "leaf",
    "linear",
    "linear_cross_entropy",
    "low_rank_linear",
    "multiply",
    "plain_sums",
    "position_scores",
    "recomputed",
    "record",
    "reshape",
    "rms_norm",
    "rotary",
    "scale",
    "soft_cap",
    "split",
    "stored_as",
    "take_rows",
    "transpose",
    "weighted_sum",
]
