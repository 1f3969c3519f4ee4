# ruff: noqa: E501 (one mistake a line)
"""Mistakes of the model and of the data: what a run computes its losses and gradients from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from tests.oracle.adversary.parts import Parts, angles, causal, cross_entropy, rms, rotate, turned, wide

T = torch.Tensor


@dataclass(frozen=True)
class Mistake:
    """One thing put wrong in a whole run.

    Attributes
    ----------
    kind : "model", "data", "method" or "loop"
    stage : of a trace, that must be the first to fail
    cause : a pattern that a right cause matches; None where none is to be named
    parts : the functions that are other ones
    golden : which golden run shows it: "plain", "warm" with a warm-up, or "small" with ranks of 0
    """

    name: str
    kind: str
    stage: str
    cause: str | None
    parts: dict[str, Any] = field(hash=False)
    golden: str = "plain"

    def made(self, right: Parts | None = None) -> Parts:
        """The parts with the mistake among them."""
        return Parts(**{**vars(right or Parts()), **self.parts})


def model(name: str, cause: str | None = None, **parts: Any) -> Mistake:
    return Mistake(name, "model", "loss", cause, parts)


def data(name: str, stage: str = "loss", cause: str | None = None, **parts: Any) -> Mistake:
    return Mistake(name, "data", stage, cause, parts)


def no_mean(x: T, weight: T, eps: float) -> T:
    return F.layer_norm(wide(x), x.shape[-1:], eps=eps).to(x.dtype) * weight


def scaled_rms(scale: Any) -> Any:
    """A norm whose divisor is `scale` of x in float32 and eps."""
    return lambda x, weight, eps: weight * (wide(x) / scale(wide(x), eps)).to(x.dtype)


def interleaved(x: T, theta: float) -> T:
    pairs = torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)
    return torch.stack(rotate(pairs, theta).chunk(2, dim=-1), dim=-1).flatten(-2)


def turn(x: T, theta: float, factor: float = 1.0) -> T:
    return turned(x, factor * angles(x.shape[-2], x.shape[-1], theta))


def partly(x: T, theta: float) -> T:
    half = x.shape[-1] // 2
    return torch.cat([rotate(x[..., :half], theta), x[..., half:]], dim=-1)


def leaky(length: int, layer: int) -> T:
    return torch.full((length, length), -math.inf).triu(2)


def window(length: int, layer: int) -> T:
    return causal(length, layer) + torch.full((length, length), -math.inf).tril(-4).nan_to_num(0.0, neginf=-math.inf)


def swapped_weight(one: str, other: str) -> Any:
    def weight(W: dict[str, T], name: str) -> T:
        return W[f"{name.replace(one, other)}.weight"]

    return weight


def transposed(part: str) -> Any:
    return lambda W, name: W[f"{name}.weight"].T if name.endswith(part) else W[f"{name}.weight"]


def rotated(**angle: Any) -> dict[str, Any]:
    """Both q and k turned otherwise."""
    function = angle["by"]
    return {"rotate_q": function, "rotate_k": function}


MODEL = [
    model("gelu for silu", "gelu|activation", mlp=lambda gate, up: F.gelu(gate) * up),
    model("tanh gelu for silu", "gelu|activation", mlp=lambda gate, up: F.gelu(gate, approximate="tanh") * up),
    model("relu for silu", "relu|activation", mlp=lambda gate, up: F.relu(gate) * up),
    model("sigmoid for silu", "sigmoid|activation", mlp=lambda gate, up: gate.sigmoid() * up),
    model("silu of up, not of gate", "gate|activation", mlp=lambda gate, up: gate * F.silu(up)),
    model("no activation", "activation", mlp=lambda gate, up: gate * up),
    model("no gate", "gate|activation", mlp=lambda gate, up: F.silu(up)),
    model("silu of the product", "activation|gate", mlp=lambda gate, up: F.silu(gate * up)),
    model("a leak of the mask by one token", "mask", mask=leaky),
    model("a leak of the mask in one layer", "mask", mask=lambda t, layer: (leaky if layer else causal)(t, layer)),
    model("no mask", "mask", mask=lambda t, layer: torch.zeros(t, t)),
    model("mask of -10", "mask", mask=lambda t, layer: causal(t, layer).clamp(min=-10.0)),
    model("the mask hides the first token", "mask", mask=lambda t, layer: causal(t, layer).index_put((torch.arange(1, t), torch.zeros(t - 1, dtype=torch.long)), torch.tensor(-math.inf))),
    model("a sliding window of 4", "mask|window", mask=window),
    model("interleaved rope", "rope|rotat", **rotated(by=interleaved)),
    model("rope of base 1000", "rope|rotat|base", **rotated(by=lambda x, theta: rotate(x, 1000.0))),
    model("rope of base 9000", "rope|rotat|base", **rotated(by=lambda x, theta: rotate(x, 9000.0))),
    model("no rope", "rope|rotat", **rotated(by=lambda x, theta: x)),
    model("rope on q alone", "rope|rotat", rotate_k=lambda x, theta: x),
    model("rope backwards", "rope|rotat", **rotated(by=lambda x, theta: turn(x, theta, -1.0))),
    model("rope backwards on k", "rope|rotat", rotate_k=lambda x, theta: turn(x, theta, -1.0)),
    model("rope of half the positions", "rope|rotat", **rotated(by=lambda x, theta: turn(x, theta, 0.5))),
    model("rope on half the dimensions", "rope|rotat", **rotated(by=partly)),
    model("rope on v too", "rope|rotat", rotate_v=rotate),
    model("rope one token late on k", "rope|rotat", rotate_k=lambda x, theta: turned(x, angles(x.shape[-2], x.shape[-1], theta, 1))),
    model("rope with d in the exponent, not d / 2", "rope|rotat", **rotated(by=lambda x, theta: rotate(x, theta**0.5))),
    model("norm with the mean taken out", "norm", norm=no_mean),
    model("norm without its weight", "norm", norm=lambda x, w, eps: rms(x, torch.ones_like(w), eps)),
    model("norm with 1 + weight", "norm", norm=lambda x, w, eps: rms(x, 1 + w, eps)),
    model("norm eps 1e-3", "norm|eps", norm=lambda x, w, eps: rms(x, w, 1e-3)),
    model("norm eps 1e-5", "norm|eps", norm=lambda x, w, eps: rms(x, w, 1e-5)),
    model("norm eps outside the root", "norm|eps", norm=scaled_rms(lambda x, eps: x.square().mean(-1, keepdim=True).sqrt() + 1e-2)),
    model("norm of the sum of squares", "norm", norm=scaled_rms(lambda x, eps: (x.square().sum(-1, keepdim=True) / (x.shape[-1] - 1) + eps).sqrt())),
    model("norm of the mean size", "norm", norm=scaled_rms(lambda x, eps: x.abs().mean(-1, keepdim=True) + eps)),
    model("no last norm", "norm", last_norm=lambda x, w, eps: x),
    model("last norm without its weight", "norm", last_norm=lambda x, w, eps: rms(x, torch.ones_like(w), eps)),
    model("scores divided by d", "scale|divided|root", divisor=lambda d, width: float(d)),
    model("scores not divided", "scale|divided|root", divisor=lambda d, width: 1.0),
    model("scores divided by the root of the width", "scale|divided|root", divisor=lambda d, width: math.sqrt(width)),
    model("groups tiled, not repeated", "group|head", expand=lambda k, n: k.repeat(1, n // k.shape[1], 1, 1)),
    model("every head uses the first group", "group|head", expand=lambda k, n: k[:, :1].expand(-1, n, -1, -1)),
    model("keys for values", "key|value", values=lambda k, v: k),
    model("heads split the wrong way", "head", split=lambda x, n: x.unflatten(-1, (-1, n)).movedim(-1, 1)),
    model("heads joined without a transpose", "head", join=lambda x: x.reshape(x.shape[0], x.shape[2], -1)),
    model("softmax of half precision", "softmax|float16", softmax=lambda s: s.half().softmax(-1).to(s.dtype)),
    model("softmax with a one in the denominator", "softmax", softmax=lambda s: (s - torch.log1p(torch.logsumexp(s, -1, keepdim=True).exp())).exp()),
    model("no residual around attention", "residual", after_attention=lambda x, y: y),
    model("no residual around the MLP", "residual", after_mlp=lambda x, y: y),
    model("residual doubled", "residual", after_mlp=lambda x, y: 2 * x + y),
    model("residual halved", "residual", after_attention=lambda x, y: (x + y) / math.sqrt(2)),
    model("the MLP sees what was not normed", "norm", mlp_input=lambda x, h: x),
    model("embeddings times the root of the width", "embedding", embedded=lambda x: x * math.sqrt(x.shape[-1])),
    model("embeddings normed", "embedding|norm", embedded=lambda x: F.normalize(wide(x), dim=-1).to(x.dtype)),
    model("embeddings with dropout", "dropout", embedded=lambda x: x * (torch.arange(x.numel()).reshape(x.shape) % 10 != 3) / 0.9),
    model("tied to the embedding", "tied|head", head=lambda W: W["model.embed_tokens.weight"]),
    model("o_proj transposed", "transpos", weight=transposed("o_proj")),
    model("q_proj transposed", "transpos", weight=transposed("q_proj")),
    model("k and v exchanged", "exchang|swap|k_proj|v_proj", weight=lambda W, name: W[(name[:-6] + {"k_proj": "v_proj", "v_proj": "k_proj"}[name[-6:]] if name.endswith(("k_proj", "v_proj")) else name) + ".weight"]),
    model("gate and up exchanged", "exchang|swap|gate", weight=lambda W, name: W[(name.replace("gate", "up") if "gate" in name else name.replace("up_", "gate_")) + ".weight"]),
    model("the second layer has the first's q", "layer|q_proj", weight=swapped_weight("layers.1.self_attn.q", "layers.0.self_attn.q")),
    model("down_proj off by 1e-3", "down_proj|weight", weight=lambda W, name: W[f"{name}.weight"] * (1.001 if name.endswith("down_proj") else 1.0)),
    model("layers the other way round", "layer", layers=lambda n: list(range(n))[::-1]),
    model("logits capped at 30", "cap", logits=lambda z: 30 * torch.tanh(z / 30)),
    model("logits over 1.01", "temperature|logits", logits=lambda z: z / 1.01),
    model("logits clamped", "clamp|logits|cap", logits=lambda z: z.clamp(-2.0, 2.0)),
]  # fmt: skip


def kept_labels(change: Any) -> Any:
    """A sample with the positions of its labels changed."""
    return lambda ids, labels: (ids, change(labels.clone()))


def lost(labels: T, which: int) -> T:
    labels[(labels != -100).nonzero()[which]] = -100
    return labels


def from_logits(change: Any) -> Any:
    """A loss out of the log-probabilities (batch, T - 1, V) and the shifted labels."""

    def loss(logits: T, labels: T) -> T:
        return change(wide(logits[:, :-1]).log_softmax(-1), labels[:, 1:])

    return loss


def picked(log_p: T, targets: T) -> T:
    return -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != -100)


def mean_of_means(logits: T, labels: T) -> T:
    return torch.stack([cross_entropy(z[None], y[None]) for z, y in zip(logits, labels, strict=True)]).mean()


def batched(change: Any) -> Any:
    return lambda ids, labels: change(ids.clone(), labels.clone())


def unpadded_labels(ids: T, labels: T) -> T:
    return torch.where((labels == -100) & (torch.arange(ids.shape[1]) > 3), ids, labels)


DATA = [
    data("the last label is lost", cause="last label|label", sample=kept_labels(lambda y: lost(y, -1))),
    data("the first label is lost", cause="first label|label", sample=kept_labels(lambda y: lost(y, 0))),
    data("the prompt is scored too", cause="prompt|label", sample=lambda ids, labels: (ids, ids)),
    data("the last token alone is scored", cause="last|label", sample=lambda ids, labels: (ids, torch.where(torch.arange(len(ids)) == len(ids) - 1, ids, -100))),
    data("labels shifted once more", cause="twice", sample=kept_labels(lambda y: torch.cat([y[1:], torch.tensor([-100])]))),
    data("labels not shifted", cause="not shifted", sample=kept_labels(lambda y: torch.cat([torch.tensor([-100]), y[:-1]]))),
    data("every second label is lost", cause="label", sample=kept_labels(lambda y: torch.where(torch.arange(len(y)) % 2 == 0, y, -100))),
    data("a token is put in front", cause="token|front|bos", sample=lambda ids, labels: (torch.cat([torch.tensor([1]), ids]), torch.cat([torch.tensor([-100]), labels]))),
    data("the first token is lost", cause="token|first", sample=lambda ids, labels: (ids[1:], labels[1:])),
    data("a token is put at the end", cause="token|end|eos", sample=lambda ids, labels: (torch.cat([ids, torch.tensor([2])]), torch.cat([labels, torch.tensor([2])]))),
    data("cut to 7 tokens", cause="cut|trunc|token", sample=lambda ids, labels: (ids[:7], labels[:7])),
    data("cut to 7 tokens on the left", cause="cut|trunc|token", sample=lambda ids, labels: (ids[-7:], labels[-7:])),
    data("token ids off by one", cause="token", sample=lambda ids, labels: (ids - 1, torch.where(labels == -100, -100, labels - 1))),
    data("samples the other way round", cause="order|sample", samples=lambda s: s[::-1]),
    data("the first sample twice", cause="sample", samples=lambda s: [s[0], *s[:-1]]),
    data("a label is masked that is token 3", cause="label", sample=kept_labels(lambda y: torch.where(y % 7 == 3, -100, y))),
    data("loss summed", cause="summed", loss=from_logits(lambda p, y: picked(p, y).sum())),
    data("loss over all tokens", cause="all tokens", loss=from_logits(lambda p, y: picked(p, y).mean())),
    data("loss over the length", cause="length", loss=lambda z, y: cross_entropy(z, y) * (y[:, 1:] != -100).sum() / y.numel()),
    data("loss to base 2", cause="base 2", loss=lambda z, y: cross_entropy(z, y) / math.log(2)),
    data("labels smoothed", cause="smooth", loss=lambda z, y: F.cross_entropy(wide(z[:, :-1]).flatten(0, 1), y[:, 1:].flatten(), label_smoothing=0.1)),
    data("z-loss added", cause="z-loss|regular|added", loss=lambda z, y: cross_entropy(z, y) + 1e-3 * torch.logsumexp(wide(z[:, :-1]), -1).square().mean()),
    data("loss divided by the root of the tokens", cause="root|divided", loss=lambda z, y: cross_entropy(z, y) * (y[:, 1:] != -100).sum().sqrt()),
    data("focal loss", cause=None, loss=from_logits(lambda p, y: (picked(p, y) * (1 - (-picked(p, y)).exp()) ** 2).sum() / (y != -100).sum())),
    data("the largest loss of a token", cause="largest", loss=from_logits(lambda p, y: picked(p, y).max())),
    data("the median loss of a token", cause="median", loss=from_logits(lambda p, y: picked(p, y)[y != -100].median())),
    data("mean squared error", cause=None, loss=from_logits(lambda p, y: ((p.exp() - F.one_hot(y.clamp(min=0), p.shape[-1])) ** 2).sum(-1)[y != -100].mean())),
    data("padding is scored in training", "gradient", cause="padding", batch=batched(lambda ids, y: (ids, unpadded_labels(ids, y)))),
    data("mean of means in training", "gradient", cause="mean of|rows|means", train_loss=mean_of_means),
    data("loss summed in training", "gradient", cause="tokens|summed", train_loss=from_logits(lambda p, y: picked(p, y).sum())),
    data("a row of the batch is lost", "gradient", cause="row|batch|sample", batch=batched(lambda ids, y: (ids[:1], y[:1]))),
    data("a row of the batch twice", "gradient", cause="row|batch|sample", batch=batched(lambda ids, y: (ids[[0, 0]], y[[0, 0]]))),
    data("batches the other way round", "gradient", cause="batch|sample", batches=lambda b: b[::-1]),
    data("one batch throughout", "gradient", cause="batch|sample", batches=lambda b: [b[0]] * len(b)),
    data("the prompt is scored in training", "gradient", cause="prompt|label", batch=batched(lambda ids, y: (ids, torch.where((ids != 0) & (y == -100), ids, y)))),
    data("the last label is lost in training", "gradient", cause="label", batch=batched(lambda ids, y: (ids, torch.stack([lost(row, -1) for row in y])))),
    data("the first label is lost in training", "gradient", cause="label", batch=batched(lambda ids, y: (ids, torch.stack([lost(row, 0) for row in y])))),
    data("labels not shifted in training", "gradient", cause="shift|label", batch=batched(lambda ids, y: (ids, y.roll(1, dims=1)))),
    data("padded on the left, without a mask", "gradient", cause="pad|mask", batch=batched(lambda ids, y: tuple(torch.stack([row.roll(int((r == 0).sum())) for row, r in zip(x, ids, strict=True)]) for x in (ids, y)))),
    data("the loss of a batch divided by its rows", "gradient", cause="divided|rows|halved", train_loss=lambda z, y: cross_entropy(z, y) / len(y)),
    data("label smoothing in training", "gradient", cause="smooth", train_loss=lambda z, y: F.cross_entropy(wide(z[:, :-1]).flatten(0, 1), y[:, 1:].flatten(), label_smoothing=0.1)),
    data("dropout in training", "gradient", cause="dropout", low_rank=lambda x, A, B, s: s * ((x * (torch.arange(x.numel()).reshape(x.shape) % 10 != 3) / 0.9) @ A.T @ B.T)),
]  # fmt: skip
