"""A whole run of an adversary's TLoRA, recorded as a candidate's trace: the reference takes no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.oracle.adversary.parts import Moments, Parts
from tlora_ref.oracle.recorder import Recorder

T = torch.Tensor


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama's configuration."""

    layers: int
    heads: int
    groups: int
    theta: float
    eps: float

    @staticmethod
    def of(config: Any) -> Shape:
        names = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        return Shape(*(getattr(config, name) for name in names), 10000.0, config.rms_norm_eps)


class Llama:
    """The model with parts; `low` has (A, B, scale) of adapted modules, `seen` what entered each module last."""

    def __init__(self, W: dict[str, T], shape: Shape, parts: Parts) -> None:
        self.W, self.shape, self.parts = W, shape, parts
        self.low: dict[str, tuple[T, T, float]] = {}
        self.seen: dict[str, T] = {}

    def linear(self, name: str, x: T) -> T:
        self.seen[name] = x.detach().flatten(0, -2)  # (batch T, d_in)
        y = x @ self.parts.weight(self.W, name).T
        if name in self.low:
            A, B, scale = self.low[name]
            y = y + self.parts.low_rank(x.to(A.dtype), A, B, scale).to(y.dtype)
        return y

    def attention(self, h: T, layer: int) -> T:
        p, s, at = self.parts, self.shape, f"model.layers.{layer}.self_attn"
        q = p.split(self.linear(f"{at}.q_proj", h), s.heads)  # (batch, heads, T, d)
        k, v = (p.split(self.linear(f"{at}.{name}_proj", h), s.groups) for name in "kv")
        q, k, v = p.rotate_q(q, s.theta), p.rotate_k(k, s.theta), p.rotate_v(v, s.theta)
        k, v = p.expand(k, s.heads), p.expand(v, s.heads)
        scores = q @ k.transpose(-1, -2) / p.divisor(q.shape[-1], h.shape[-1])
        weights = p.softmax(scores + p.mask(h.shape[1], layer).to(h.dtype))  # (batch, heads, T, T)
        return self.linear(f"{at}.o_proj", p.join(weights @ p.values(k, v)))

    def __call__(self, ids: T) -> T:
        """Logits (batch, T, V) of ids (batch, T)."""
        p, s = self.parts, self.shape
        x = p.embedded(self.W["model.embed_tokens.weight"][ids])  # (batch, T, D)
        for i in p.layers(s.layers):
            at = f"model.layers.{i}"
            x = p.after_attention(x, self.attention(p.norm(x, self.W[f"{at}.input_layernorm.weight"], s.eps), i))
            h = p.mlp_input(x, p.norm(x, self.W[f"{at}.post_attention_layernorm.weight"], s.eps))
            inner = p.mlp(self.linear(f"{at}.mlp.gate_proj", h), self.linear(f"{at}.mlp.up_proj", h))
            x = p.after_mlp(x, self.linear(f"{at}.mlp.down_proj", inner))
        x = (p.last_norm or p.norm)(x, self.W["model.norm.weight"], s.eps)
        return p.logits(x @ p.head(self.W).T)


def record(recorder: Recorder, tensors: dict[str, Any], config: Any, parts: Parts, adapters: Any = None) -> None:
    """Every stage with `parts`, told to `recorder` in its precision; `adapters` is the dtype of A and B, if another."""
    dtype = getattr(torch, str(recorder.dtype))
    W = {name: torch.tensor(x).to(dtype).requires_grad_() for name, x in tensors.items()}
    model = Llama(W, Shape.of(config), parts)
    C, S = calibrate(model, recorder, parts)
    shapes, facts = recorder.golden.shapes, recorder.golden.manifest
    scores = torch.stack(list(S.values()))
    rank = parts.ranks(scores, list(shapes.values()), facts.r_init)
    scale = parts.scales(scores, rank, facts.r_init, facts.alpha)
    of_rank = dict(zip(S, rank.tolist(), strict=True))
    of_scale = dict(zip(S, scale.tolist(), strict=True))
    kept = [m for m in S if of_rank[m] > 0]
    A = {m: parts.A(W[f"{m}.weight"].detach(), parts.C_of(C, m), of_rank[m]).to(adapters or dtype) for m in kept}
    recorder.add(covariance=C, sensitivity=S, rank=of_rank, scale=of_scale, A=A)
    A, B = train(model, recorder, parts, A, of_scale)
    merged = {m: parts.merge(W[f"{m}.weight"].detach(), A[m], B[m], of_scale[m]) for m in kept}
    recorder.add(merged=merged)


def calibrate(model: Llama, recorder: Recorder, parts: Parts) -> tuple[dict[str, T], dict[str, T]]:
    """Lines 4 to 11."""
    data = [(torch.tensor(s["input_ids"][0]), torch.tensor(s["labels"][0])) for s in recorder.samples()]
    names = list(recorder.golden.shapes)
    X: dict[str, list[T]] = {m: [] for m in names}
    G: dict[str, list[T]] = {m: [] for m in names}
    for n, (ids, labels) in enumerate(parts.sample(*one) for one in parts.samples(data)):
        loss = parts.loss(model(ids[None]), labels[None])
        recorder.sample(n, loss=loss, inputs={m: model.seen[m] for m in names})
        weights = [model.W[f"{m}.weight"] for m in names]
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
        for m, slope, W in zip(names, slopes, weights, strict=True):
            X[m].append(parts.scored_inputs(parts.seen(model.seen, m), labels))
            G[m].append(_zero(slope, W))
    C = {m: parts.covariance(X[m]) for m in names}
    return C, {m: parts.sensitivity(model.W[f"{m}.weight"].detach(), G[m]) for m in names}


def train(
    model: Llama, recorder: Recorder, parts: Parts, A: dict[str, T], scale: dict[str, float]
) -> tuple[dict[str, T], dict[str, T]]:
    """The golden batches; returns A and B as they are merged."""
    plan, shapes = recorder.golden.manifest.train, recorder.golden.shapes
    rates = [lr for _, lr, _ in recorder.batches()]
    batches = [[torch.tensor(batch[name]) for name in ("input_ids", "labels")] for _, _, batch in recorder.batches()]
    B = {m: parts.first_B((shapes[m][0], len(A[m]))).to(A[m].dtype) for m in A}
    state = {m: Moments(torch.zeros_like(B[m]), torch.zeros_like(B[m])) for m in A}
    before: dict[str, T] = {}
    states = [(A, B)]
    for t, batch in enumerate(parts.batches(batches), start=1):
        ids, labels = parts.batch(*batch)
        leaves = {m: (A[m].detach().requires_grad_(), B[m].detach().requires_grad_()) for m in A}
        model.low = {m: (*leaves[m], scale[m]) for m in A}
        loss = (parts.train_loss or parts.loss)(model(ids), labels)
        found = torch.autograd.grad(loss, [x for pair in leaves.values() for x in pair], allow_unused=True)
        slopes = {m: [_zero(g, x) for g, x in zip(found[2 * i : 2 * i + 2], leaves[m], strict=True)]
                  for i, m in enumerate(A)}  # fmt: skip
        before = parts.gradients({m: slopes[m][1] for m in A}, before, scale)
        used = parts.clip(before, plan["max_grad_norm"]) if plan["max_grad_norm"] else before
        options = {"lr": parts.rate(t, rates), "betas": tuple(plan["betas"]), "eps": plan["eps"]}
        for m in A:
            moved, state[m] = parts.adamw(
                B[m], used[m], parts.moments(state[m], t), step=t, decay=plan["weight_decay"], **options
            )
            B = {**B, m: parts.stored(moved)}
        A = {m: parts.next_A(A[m], slopes[m][0]) for m in A}
        states.append((A, B))
        moments = {"exp_avg": {m: state[m].m for m in A}, "exp_avg_sq": {m: state[m].v for m in A}}
        recorder.step(t, loss=loss, lr=parts.told_rate(t, rates), grad_B=before, A=A, B=B, **moments)
    return parts.kept(states)


def _zero(slope: T | None, like: T) -> T:
    return torch.zeros_like(like) if slope is None else slope


def candidate(golden: Path, folder: Path, model: Any, dtype: str, parts: Parts, adapters: Any = None) -> None:
    """A run in `dtype`, written to `folder`."""
    recorder = Recorder(golden, dtype)
    record(recorder, model.tensors, model.config, parts, adapters)
    recorder.write(folder, overwrite=True)
