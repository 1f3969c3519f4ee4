"""TLoRA of a Llama in JAX, jitted, in float32: functions alone, with nothing to hook; the recorder is told."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from tlora_ref.oracle.recorder import Recorder

Tree = dict[str, Any]


def rms(x: Any, weight: Any, eps: float) -> Any:
    return weight * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps)


def rope(x: Any, theta: float) -> Any:
    """x (heads, T, d), rotated by half."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] / theta ** (jnp.arange(half) / half)  # (T, d/2)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], axis=-1)


def forward(W: Tree, low: Tree, ids: Any, shape: Any) -> tuple[Any, Tree]:
    """Logits (T, V) of one row, and X of every module; `low` has (A, B, scale) by module."""
    seen: Tree = {}

    def linear(name: str, x: Any) -> Any:
        seen[name] = x
        y = x @ W[f"{name}.weight"].T
        if name in low:
            A, B, scale = low[name]
            y = y + scale * (x @ A.T @ B.T)
        return y

    def heads(x: Any, n: int) -> Any:
        return x.reshape(len(ids), n, -1).swapaxes(0, 1)  # (n, T, d)

    layers, n, groups, theta, eps = shape
    x = W["model.embed_tokens.weight"][ids]  # (T, D)
    hidden = jnp.triu(jnp.full((len(ids), len(ids)), -jnp.inf), 1)
    for i in range(layers):
        at = f"model.layers.{i}"
        h = rms(x, W[f"{at}.input_layernorm.weight"], eps)
        q, k, v = (heads(linear(f"{at}.self_attn.{p}_proj", h), m) for p, m in (("q", n), ("k", groups), ("v", groups)))
        q, k, v = rope(q, theta), jnp.repeat(rope(k, theta), n // groups, 0), jnp.repeat(v, n // groups, 0)
        p = jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]) + hidden, axis=-1)  # (n, T, T)
        x = x + linear(f"{at}.self_attn.o_proj", (p @ v).swapaxes(0, 1).reshape(len(ids), -1))
        h = rms(x, W[f"{at}.post_attention_layernorm.weight"], eps)
        gate, up = linear(f"{at}.mlp.gate_proj", h), linear(f"{at}.mlp.up_proj", h)
        x = x + linear(f"{at}.mlp.down_proj", jax.nn.silu(gate) * up)
    x = rms(x, W["model.norm.weight"], eps)
    return x @ W.get("lm_head.weight", W["model.embed_tokens.weight"]).T, seen


def loss(W: Tree, B: Tree, low: Tree, ids: Any, labels: Any, shape: Any) -> Any:
    """Mean cross entropy over the labelled tokens, shifted by one."""
    adapted = {m: (low[m][0], B[m], low[m][1]) for m in B}
    log_p = jax.nn.log_softmax(forward(W, adapted, ids, shape)[0][:-1])
    kept = labels[1:] != -100
    picked = jnp.take_along_axis(log_p, jnp.where(kept, labels[1:], 0)[:, None], axis=1)[:, 0]
    return -(picked * kept).sum() / kept.sum()


def record(recorder: Recorder, tensors: Tree, config: Any) -> None:
    """The whole run, told to the recorder."""
    shapes, facts = recorder.golden.shapes, recorder.golden.manifest
    W = {name: jnp.asarray(x, jnp.float32) for name, x in tensors.items()}
    shape = (*(getattr(config, k) for k in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")),
             10000.0, config.rms_norm_eps)  # fmt: skip
    slope = jax.jit(jax.value_and_grad(loss), static_argnums=5)
    N, C, S = facts.samples, dict.fromkeys(shapes, 0.0), dict.fromkeys(shapes, 0.0)
    for n, sample in enumerate(recorder.samples()):
        ids, labels = (jnp.asarray(sample[name][0]) for name in ("input_ids", "labels"))
        X = forward(W, {}, ids, shape)[1]
        value, G = slope(W, {}, {}, ids, labels, shape)
        recorder.sample(n, loss=value, inputs=X)
        for m in shapes:
            C[m], S[m] = C[m] + X[m].T @ X[m] / N, S[m] + jnp.abs(W[f"{m}.weight"] * G[f"{m}.weight"]).mean() / N
    total = sum(map(float, S.values()))
    rank = {m: min(round(len(S) * facts.r_init * float(S[m]) / total), *shapes[m]) for m in S}
    scale = {m: facts.alpha / facts.r_init * float(S[m]) * len(S) / total for m in S}
    A = {m: jnp.linalg.svd(W[f"{m}.weight"] @ C[m])[2][: rank[m]] for m in S if rank[m] > 0}
    recorder.add(covariance=C, sensitivity=S, rank=rank, scale=scale, A=A)
    low, B = {m: (A[m], scale[m]) for m in A}, {m: jnp.zeros((shapes[m][0], rank[m])) for m in A}
    m1, m2, decay = {m: 0.0 * B[m] for m in A}, {m: 0.0 * B[m] for m in A}, facts.train["weight_decay"]
    slope = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=5)
    for t, lr, batch in recorder.batches():
        ids, labels = (jnp.asarray(batch[name][0]) for name in ("input_ids", "labels"))
        value, G = slope(W, B, low, ids, labels, shape)
        m1 = {m: 0.9 * m1[m] + 0.1 * G[m] for m in A}
        m2 = {m: 0.999 * m2[m] + 0.001 * G[m] ** 2 for m in A}
        B = {m: B[m] * (1 - lr * decay) - lr * (m1[m] / (1 - 0.9**t)) / (jnp.sqrt(m2[m] / (1 - 0.999**t)) + 1e-8)
             for m in A}  # fmt: skip
        recorder.step(t, loss=value, lr=lr, grad_B=G, B=B, exp_avg=m1, exp_avg_sq=m2)
    recorder.add(merged={m: W[f"{m}.weight"] + scale[m] * B[m] @ A[m] for m in A})
