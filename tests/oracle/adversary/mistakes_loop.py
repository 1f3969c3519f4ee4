# ruff: noqa: E501 (one mistake a line)
"""Mistakes of the loop: gradients on their way to the optimizer, clipping, learning rates, AdamW, what is stored."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.oracle.adversary.mistakes_model import Mistake
from tests.oracle.adversary.parts import Moments, adamw, clip

T = torch.Tensor


def loop(name: str, cause: str | None = None, stage: str = "adamw", golden: str = "plain", **parts: Any) -> Mistake:
    return Mistake(name, "loop", stage, cause, parts, golden)


def with_(**changes: Any) -> Any:
    """AdamW with other settings, each a value or a function of the step's settings."""

    def step(B: T, g: T, s: Moments, **options: Any) -> tuple[T, Moments]:
        made = {name: change(options) if callable(change) else change for name, change in changes.items()}
        return adamw(B, g, s, **{**options, **made})

    return step


def of_gradient(change: Any) -> Any:
    """AdamW fed with a changed gradient."""
    return lambda B, g, s, **options: adamw(B, change(B, g, options), s, **options)


def written(update: Any) -> Any:
    """AdamW with the new B written out: `update(B, g, m, v, m_hat, v_hat, options)`, moments right."""

    def step(B: T, g: T, s: Moments, **options: Any) -> tuple[T, Moments]:
        new = adamw(B, g, s, **options)[1]
        c1, c2 = (1 - beta ** options["step"] for beta in options["betas"])
        return update(B, g, new.m, new.v, new.m / c1, new.v / c2, options), new

    return step


def moved(B: T, o: Any, m: T, root: T) -> T:
    """A decayed B, moved."""
    return B * (1 - o["lr"] * o["decay"]) - o["lr"] * m / root


def moments(first: Any = None, second: Any = None) -> Any:
    """AdamW with the new moments by other rules, of (old, g, beta), and B of those."""

    def step(B: T, g: T, s: Moments, **o: Any) -> tuple[T, Moments]:
        (b1, b2), right = o["betas"], adamw(B, g, s, **o)[1]
        m, v = first(s.m, g, b1) if first else right.m, second(s.v, g, b2) if second else right.v
        c1, c2 = 1 - b1 ** o["step"], 1 - b2 ** o["step"]
        return moved(B, o, m / c1, (v / c2).abs().sqrt() + o["eps"]), Moments(m, v)

    return step


def each(change: Any) -> Any:
    """Gradients as they are recorded, changed one by one: `change(g, g of the step before or zero, scale)`."""
    return lambda new, old, scale: {m: change(g, old.get(m, torch.zeros_like(g)), scale[m]) for m, g in new.items()}


def nadam(B: T, g: T, m: T, v: T, mh: T, vh: T, o: Any) -> T:
    b1, t = o["betas"][0], o["step"]
    return moved(B, o, b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t), vh.sqrt() + o["eps"])


GRADIENT = [
    loop("gradients not set to zero", "zero|accumul", "gradient", gradients=each(lambda g, old, s: g + old)),
    loop("gradients without scale", "left out", "gradient", gradients=each(lambda g, old, s: g / s)),
    loop("gradients scaled twice", "twice", "gradient", gradients=each(lambda g, old, s: g * s)),
    loop("gradients doubled", "doubled", "gradient", gradients=each(lambda g, old, s: 2 * g)),
    loop("gradients halved", "halved", "gradient", gradients=each(lambda g, old, s: g / 2)),
    loop("gradients of the wrong sign", "sign", "gradient", gradients=each(lambda g, old, s: -g)),
    loop("gradients of the step before", "step before|previous", "gradient", gradients=each(lambda g, old, s: torch.where(old.abs().sum() > 0, old * 1.1, g))),
    loop("gradients off by 1 %", r"1\.01 times", "gradient", gradients=each(lambda g, old, s: 1.01 * g)),
    loop("gradients in float16, times 1e-4", None, "gradient", gradients=each(lambda g, old, s: (g * 1e-4).half().to(g.dtype) * 1e4)),
    loop("gradients cut to their sign", "sign", "gradient", gradients=each(lambda g, old, s: g.sign() * g.abs().mean())),
    loop("a column of the gradient is zero", None, "gradient", gradients=each(lambda g, old, s: torch.cat([g[:, :-1], 0 * g[:, -1:]], dim=1))),
    loop("a module is not trained", "zero", "gradient", gradients=lambda new, old, s: {m: 0 * g if "layers.1.mlp.down" in m else g for m, g in new.items()}),
    loop("gradients recorded after clipping", "after clipping", "gradient", gradients=lambda new, old, s: clip(new, 0.05)),
    loop("gradients with noise of 5 %", None, "gradient", gradients=each(lambda g, old, s: g + 0.05 * g.abs().mean() * torch.randn(g.shape, generator=torch.Generator().manual_seed(1)).to(g))),
    loop("the smallest tenth of gradients cut", "small entries", "gradient", gradients=each(lambda g, old, s: g * (g.abs() >= g.abs().flatten().kthvalue(max(1, g.numel() // 10))[0]))),
    loop("gradients centred", "centre|mean", "gradient", gradients=each(lambda g, old, s: g - g.mean(0, keepdim=True))),
]  # fmt: skip

CLIPPING = [
    loop("not clipped", "not clipped", clip=lambda G, most: G),
    loop("each matrix clipped by itself", "own norm", clip=lambda G, most: {m: clip({m: g}, most)[m] for m, g in G.items()}),
    loop("clipped entry by entry", "entry by entry", clip=lambda G, most: {m: g.clamp(-most, most) for m, g in G.items()}),
    loop("clipped to norm 1", "norm 1", clip=lambda G, most: clip(G, 1.0)),
    loop("clipped by the largest entry", "largest|norm", clip=lambda G, most: {m: g * min(1.0, most / max(float(x.abs().max()) for x in G.values())) for m, g in G.items()}),
    loop("clipped by the squared norm", "squared|norm", clip=lambda G, most: {m: g * min(1.0, most / sum(float(x.square().sum()) for x in G.values())) for m, g in G.items()}),
    loop("clipped by the sum of the norms", "sum|norm", clip=lambda G, most: {m: g * min(1.0, most / sum(float(x.norm()) for x in G.values())) for m, g in G.items()}),
    loop("scaled to the norm always", "norm", clip=lambda G, most: {m: g * most / math.sqrt(sum(float(x.square().sum()) for x in G.values())) * 1.01 for m, g in G.items()}),
    loop("clipped twice as far", "norm|max_grad_norm", clip=lambda G, most: clip(G, 2 * most)),
]  # fmt: skip

RATES = [
    loop("lr of the step before", "learning rate", rate=lambda t, rates: rates[max(0, t - 2)]),
    loop("lr of the step after", "learning rate", rate=lambda t, rates: rates[min(len(rates) - 1, t)]),
    loop("lr of the first step throughout", "learning rate", rate=lambda t, rates: rates[0]),
    loop("lr 10 % higher", "learning rate|lr", rate=lambda t, rates: 1.1 * rates[t - 1]),
    loop("lr off by 1e-3", "learning rate|lr", rate=lambda t, rates: 1.001 * rates[t - 1]),
    loop("lr off by 1e-5", "learning rate|lr", rate=lambda t, rates: 1.00001 * rates[t - 1]),
    loop("lr 3 % lower on even steps", "learning rate|lr", rate=lambda t, rates: (1.0 if t % 2 else 0.97) * rates[t - 1]),
    loop("lr halved", "learning rate|lr", rate=lambda t, rates: 0.5 * rates[t - 1]),
    loop("constant lr, and said so", "learning rate|schedule", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: rates[0])),
    loop("lr falls by a cosine, and said so", "learning rate|schedule|cosine", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: 0.5 * rates[0] * (1 + math.cos(math.pi * (t - 1) / len(rates))))),
    loop("lr stepped before the first step, and said so", "learning rate|schedule", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: rates[0] * (1 - t / len(rates)))),
    loop("lr over one step more, and said so", "learning rate|schedule", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: rates[0] * (1 - (t - 1) / (len(rates) + 1)))),
    loop("no warm-up, and said so", "learning rate|warm", golden="warm", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: max(rates) * (1 - (t - 1) / len(rates)))),
    loop("warm-up counted from 1, and said so", "learning rate|warm", golden="warm", **dict.fromkeys(("rate", "told_rate"), lambda t, rates: rates[min(t, len(rates) - 1)])),
    loop("no warm-up", "learning rate|warm", golden="warm", rate=lambda t, rates: max(rates) if t < 3 else rates[t - 1]),
    loop("warm-up counted from 1", "learning rate|warm", golden="warm", rate=lambda t, rates: rates[min(t, len(rates) - 1)]),
]  # fmt: skip

ADAMW = [
    loop("no bias correction", "no bias correction", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, m, v.sqrt() + o["eps"]))),
    loop("exp_avg uncorrected", "exp_avg is not bias", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, m, vh.sqrt() + o["eps"]))),
    loop("exp_avg_sq uncorrected", "exp_avg_sq is not bias", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, mh, v.sqrt() + o["eps"]))),
    loop("bias corrections exchanged", "bias|swap|exchang", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, m / (1 - o["betas"][1] ** o["step"]), (v / (1 - o["betas"][0] ** o["step"])).sqrt() + o["eps"]))),
    loop("step counted from 0", "counted from 0|one step", adamw=with_(step=lambda o: max(1, o["step"] - 1))),
    loop("one step ahead", "one step ahead", adamw=with_(step=lambda o: o["step"] + 1)),
    loop("the step stays at 1", "step", adamw=with_(step=1)),
    loop("eps in the root", "inside the root", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, mh, (vh + o["eps"]).sqrt()))),
    loop("eps before the correction", "before the bias", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, mh, (v.sqrt() + o["eps"]) / math.sqrt(1 - o["betas"][1] ** o["step"])))),
    loop("eps 1e-4", "eps", adamw=with_(eps=1e-4)),
    loop("eps 1e-6", "eps", adamw=with_(eps=1e-6)),
    loop("wd 0", "not decayed", adamw=with_(decay=0.0)),
    loop("wd not times lr", "not multiplied by lr", adamw=with_(decay=lambda o: o["decay"] / o["lr"] if o["lr"] else 0.0)),
    loop("wd twice", "twice", adamw=with_(decay=lambda o: 2 * o["decay"])),
    loop("wd a tenth", "decay", adamw=with_(decay=lambda o: 0.1 * o["decay"])),
    loop("wd 0.03 of what it is", "decay", adamw=with_(decay=lambda o: 0.03 * o["decay"])),
    loop("wd added", "decay|sign", adamw=with_(decay=lambda o: -o["decay"])),
    loop("wd after the update", "after the update", adamw=written(lambda B, g, m, v, mh, vh, o: (B - o["lr"] * mh / (vh.sqrt() + o["eps"])) * (1 - o["lr"] * o["decay"]))),
    loop("wd squared away", "decay", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, {**o, "decay": 0.0}, mh, vh.sqrt() + o["eps"]) - o["lr"] * o["decay"] * B.sign() * 0.01)),
    loop("wd times the peak lr", "decay", adamw=with_(decay=lambda o: o["decay"] * 1e-2 / o["lr"] if o["lr"] else 0.0)),
    loop("L2 for decoupled decay", "L2", adamw=lambda B, g, s, **o: adamw(B, g + o["decay"] * B, s, **{**o, "decay": 0.0})),
    loop("L2 and decoupled decay", "L2|decay", adamw=of_gradient(lambda B, g, o: g + o["decay"] * B)),
    loop("betas exchanged", "swapped", adamw=with_(betas=lambda o: o["betas"][::-1])),
    loop("beta2 0.99", "beta", adamw=with_(betas=(0.9, 0.99))),
    loop("beta2 0.95", "beta", adamw=with_(betas=(0.9, 0.95))),
    loop("beta1 0.95", "beta", adamw=with_(betas=(0.95, 0.999))),
    loop("no momentum", "momentum|beta", adamw=with_(betas=(0.0, 0.999))),
    loop("the gradient for exp_avg", "no momentum", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, g, vh.sqrt() + o["eps"]))),
    loop("exp_avg without 1 - beta1", "1 - beta1", adamw=moments(lambda m, g, b: b * m + g)),
    loop("exp_avg_sq without 1 - beta2", "1 - beta2", adamw=moments(None, lambda v, g, b: b * v + g * g)),
    loop("beta1 on the gradient", "beta1 weighs", adamw=moments(lambda m, g, b: (1 - b) * m + b * g)),
    loop("|g| for g^2", r"\|g\|", adamw=moments(None, lambda v, g, b: b * v + (1 - b) * g.abs())),
    loop("exp_avg_sq one number a row", "row|mean", adamw=moments(None, lambda v, g, b: b * v + (1 - b) * (g * g).mean(1, keepdim=True).expand_as(g))),
    loop("exp_avg_sq one number a matrix", "mean|matrix", adamw=moments(None, lambda v, g, b: b * v + (1 - b) * (g * g).mean().expand_as(g))),
    loop("AMSGrad in exp_avg_sq", "AMSGrad|largest", adamw=moments(None, lambda v, g, b: torch.maximum(v, b * v + (1 - b) * g * g) * 1.001)),
    loop("exp_avg_sq summed (Adagrad)", "summed|Adagrad|1 - beta2", adamw=moments(None, lambda v, g, b: v + g * g)),
    loop("exp_avg_sq the largest (Adamax)", "largest|Adamax", adamw=moments(None, lambda v, g, b: torch.maximum(b * v, g * g))),
    loop("moments forgotten", "forgotten|not carried", moments=lambda s, t: Moments(0 * s.m, 0 * s.v)),
    loop("exp_avg forgotten", "forgotten|exp_avg", moments=lambda s, t: Moments(0 * s.m, s.v)),
    loop("exp_avg_sq forgotten", "forgotten|exp_avg_sq", moments=lambda s, t: Moments(s.m, 0 * s.v)),
    loop("Nesterov", "Nesterov", adamw=written(nadam)),
    loop("the sign of exp_avg (Lion)", "sign|Lion", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, m.sign(), torch.ones_like(m)))),
    loop("not divided by the root", "not divided by the root", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, mh, torch.ones_like(m)))),
    loop("divided by exp_avg_sq", "not by its root", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, mh, vh + o["eps"]))),
    loop("plain gradient descent", "gradient descent", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, g, torch.ones_like(g)))),
    loop("uphill", "uphill", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, -mh, vh.sqrt() + o["eps"]))),
    loop("no update", "not made", adamw=written(lambda B, g, m, v, mh, vh, o: B)),
    loop("the update twice", "twice|learning rate", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, 2 * mh, vh.sqrt() + o["eps"]))),
    loop("the update clipped to 0.5", "clip|cut", adamw=written(lambda B, g, m, v, mh, vh, o: moved(B, o, (mh / (vh.sqrt() + o["eps"])).clamp(-0.5, 0.5), torch.ones_like(m)))),
    loop("B cut to 0.005", "cut|clip", stored=lambda B: B.clamp(-0.005, 0.005)),
    loop("B rounded to 8 bits", "round|8 bit", stored=lambda B: (B * 127 / B.abs().max().clamp(min=1e-30)).round() * B.abs().max() / 127),
    loop("B averaged with the step before", "average", adamw=written(lambda B, g, m, v, mh, vh, o: (B + moved(B, o, mh, vh.sqrt() + o["eps"])) / 2)),
    loop("B normed", r"norm|0\.999 times", stored=lambda B: B / B.norm(dim=0, keepdim=True).clamp(min=1.0) * 0.999),
]  # fmt: skip
LOOP = [*GRADIENT, *CLIPPING, *RATES, *ADAMW]
