"""A run of TLoRA made with any implementation's stages, recorded as a candidate's trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.data import pad_batch
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.traces import Manifest, Trace, TraceWriter
from tlora_ref.oracle.traces.replay import module_inputs
from tlora_ref.transformer import Model

BETAS, EPS, DECAY = (0.9, 0.999), 1e-8, 0.01


def batched_inputs(model: Model, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """X of every module on every sample, from one forward pass over all of them, padded, and taken apart again."""
    inputs: list[dict[str, Any]] = [{} for _ in samples]

    def observe(module: str, x: np.ndarray) -> None:
        rows = x.reshape(len(samples), -1, x.shape[-1])
        for n, sample in enumerate(samples):
            inputs[n][module] = rows[n, : len(sample["input_ids"])]

    model.watching([]).observing(observe)(**pad_batch(samples))
    return inputs


def record(
    model: Model,
    samples: list[dict[str, Any]],
    golden: Path,
    folder: Path,
    made: Reference,
    *,
    batched: bool = False,
) -> None:
    """Every stage by `made`, each fed with what `made` gave before; the budget and the batches are the golden run's."""
    gold = Trace(golden)
    facts = gold.manifest
    writer = TraceWriter(Manifest(modules=facts.modules, r_init=facts.r_init, alpha=facts.alpha))
    names = [f"{m}.weight" for m in gold.shapes]
    one_by_one = (module_inputs(model, sample, n) for n, sample in enumerate(samples))
    inputs = batched_inputs(model, samples) if batched else list(one_by_one)
    gradients = []
    for n, sample in enumerate(samples):
        output = model.watching(names)(**sample)
        writer.add(f"sample/{n}/loss", np.float64(made.loss(output.logits, np.asarray(sample["labels"]))))
        gradients.append(grad(output.loss, names))
    W = {m: model.weight(m) for m in gold.shapes}
    C = {m: made.covariance([x[m] for x in inputs]) for m in W}
    S = {m: made.sensitivity(W[m], [g[f"{m}.weight"] for g in gradients]) for m in W}
    ranks, scales = made.allocate(np.array(list(S.values())), list(gold.shapes.values()), facts.r_init, facts.alpha)
    rank, scale = (dict(zip(W, values.tolist(), strict=True)) for values in (ranks, scales))
    for m in W:
        writer.add(f"covariance/{m}", C[m])
        writer.add(f"sensitivity/{m}", np.float64(S[m]))
        writer.add(f"rank/{m}", np.int64(rank[m]))
        writer.add(f"scale/{m}", np.float64(scale[m]))
    A = {m: made.initialize_a(W[m], C[m], rank[m]) for m in W if rank[m] > 0}
    for m in A:
        writer.add(f"A/{m}", A[m])
    B = train(model, gold, writer, made, A, scale)
    for m in A:
        writer.add(f"merged/{m}", made.merge(W[m], A[m], B[m], scale[m]))
    writer.write(folder, overwrite=True)


def train(
    model: Model, gold: Trace, writer: TraceWriter, made: Reference, A: dict[str, Any], scale: dict[str, float]
) -> dict[str, Any]:
    """The golden batches through the model with A and B attached; gradients and updates by `made`."""
    state = {m: (np.zeros((gold.shapes[m][0], len(A[m]))),) * 3 for m in A}
    rates = gold.get("train/lr")
    for t in gold.numbered("train", "input_ids"):
        model.attach(Adapter(A, {m: state[m][0] for m in A}, {m: scale[m] for m in A}))
        batch = {name: gold.get(f"train/{t}/{name}") for name in ("input_ids", "labels", "attention_mask")}
        leaves = [f"{m}.weight" for m in A]
        G = grad(model.watching(leaves)(**batch).loss, leaves)
        model.detach()
        for m in A:
            d_out = gold.shapes[m][0]
            # the stage takes x and dy; with dy = I and x = dL/dW' they have the right product
            dB = made.grad_b(G[f"{m}.weight"], np.eye(d_out), A[m], state[m][0], scale[m])
            settings = {"step": t, "lr": float(rates[t - 1]), "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
            state[m] = made.adamw_step(state[m][0], dB, state[m][1], state[m][2], **settings)
            for name, value in zip(("grad_B", "B", "exp_avg", "exp_avg_sq"), (dB, *state[m]), strict=True):
                writer.add(f"train/{t}/{name}/{m}", value)
    return {m: state[m][0] for m in A}
