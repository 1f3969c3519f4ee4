"""Right implementations that differ only in what is free: how many of them does `verify` call wrong? None may be.

`python -m tests.oracle.false_alarms [RUNS]` prints the figure. A run draws a model, samples, a budget, a profile, a
training and a precision; the candidate sums in another order, takes other signs of the singular vectors, decomposes by
another LAPACK routine, calibrates on one padded batch taken apart again, uses another number of BLAS threads, works in
float32, with weights in bfloat16, or in float64, or keeps every array, norm and clipped gradient in bfloat16. It is
compared with the weights and without.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

import tlora_ref as tr
from tests.oracle.wrong_runs import record
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.method.adamw import adamw_step
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.traces import Trace, TraceWriter
from tlora_ref.training import TrainSettings

Array = np.ndarray


class Otherwise(Reference):
    """The same method by other arithmetic: naive sums, the eigenvectors of M^T M's square root, flipped signs."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.rng = rng

    def covariance(self, inputs: list[Array]) -> Array:
        """Token by token, in a random order of samples."""
        total = np.zeros((inputs[0].shape[1],) * 2)
        for n in self.rng.permutation(len(inputs)):
            for x in inputs[n]:
                total += np.outer(x, x)
        return total / len(inputs)

    def sensitivity(self, W: Array, gradients: list[Array]) -> float:
        """Columns first."""
        return sum(float(np.abs(W * g).sum(axis=0).sum()) for g in gradients) / W.size / len(gradients)

    def initialize_a(self, W: Array, C: Array, r: int) -> Array:
        """By the SVD of the transpose, with random signs of the rows."""
        driver = str(self.rng.choice(["gesdd", "gesvd"]))
        U = scipy.linalg.svd((W @ C).T, full_matrices=True, lapack_driver=driver)[0]
        return U.T[:r] * self.rng.choice([-1.0, 1.0], size=(r, 1))

    def grad_b(self, x: Array, dy: Array, A: Array, B: Array, scale: float) -> Array:
        """Through h = x A^T."""
        return (dy * scale).T @ (x @ A.T)

    def merge(self, W: Array, A: Array, B: Array, scale: float) -> Array:
        """One outer product at a time."""
        return W + sum(np.outer(scale * B[:, k], A[k]) for k in range(len(A)))


def stored_in_bfloat16(golden: Path, folder: Path) -> None:
    """A run whose every array, norm and clipped gradient is kept in bfloat16, and whose AdamW sums in float32."""
    trace, low = Trace(golden), Precision.of("bfloat16")
    train = trace.manifest.train
    writer = TraceWriter(replace(trace.manifest, dtype="bfloat16", noise={}))
    floats = {name for name in trace.names() if trace.get(name).dtype == np.float64 and trace.get(name).ndim}
    updated = {n for n in floats if re.match(r"train/\d+/(A_)?(A|B|exp_avg|exp_avg_sq)/", n) or n.startswith("merged/")}
    held = {n: low.rounded(trace.get(n)) if n in floats else trace.get(n) for n in trace.names() if n not in updated}
    letters = "B" if trace.manifest.resolved().freeze_A else "BA"
    state = {("A", m): (held[f"A/{m}"], 0.0, 0.0) for m in trace.modules("A")}
    state |= {("B", m): (np.zeros((trace.shapes[m][0], len(state["A", m][0]))), 0.0, 0.0) for m in trace.modules("A")}
    for t in trace.numbered("train", "grad_B"):
        grads = {(x, m): held[f"train/{t}/grad_{x}/{m}"] for x in letters for m in trace.modules("A")}
        most = train["max_grad_norm"]
        if most is not None:
            norm = low.rounded(np.linalg.norm([low.rounded(np.linalg.norm(g)) for g in grads.values()]))
            factor = low.rounded(np.minimum(1.0, most / (norm + 1e-6)))
            grads = {key: low.rounded(factor * g) for key, g in grads.items()}
        for (x, m), g in grads.items():
            settings = {"betas": tuple(train["betas"]), "eps": train["eps"], "weight_decay": train["weight_decay"]}
            before = [np.broadcast_to(np.float32(value), g.shape).astype(np.float32) for value in state[x, m]]
            after = adamw_step(
                before[0], g.astype(np.float32), *before[1:], step=t, lr=float(trace.get("train/lr")[t - 1]), **settings
            )
            state[x, m] = tuple(low.rounded(value) for value in after)
            kinds = ("B", "exp_avg", "exp_avg_sq") if x == "B" else ("A", "A_exp_avg", "A_exp_avg_sq")
            held |= {f"train/{t}/{name}/{m}": value for name, value in zip(kinds, state[x, m], strict=True)}
    for m in trace.modules("merged"):
        W = trace.get(f"merged/{m}") - float(trace.get(f"scale/{m}")) * (
            trace.get(f"train/{t}/B/{m}") @ trace.get(f"train/{t}/A/{m}" if letters == "BA" else f"A/{m}")
        )
        product = state["B", m][0].astype(np.float32) @ state["A", m][0].astype(np.float32)
        held[f"merged/{m}"] = low.rounded(W.astype(np.float32) + np.float32(held[f"scale/{m}"]) * product)
    for name in trace.names():
        writer.add(name, held[name])
    writer.write(folder, overwrite=True)


def one(seed: int, folder: Path) -> tuple[str, list[Report]]:
    """One randomised run: what it was, and the verdicts on a candidate that is right, with the weights and without."""
    rng = np.random.default_rng(seed)
    model = tiny_llama(seed=seed, num_hidden_layers=int(rng.integers(1, 3)))
    samples: list[dict[str, Any]] = tiny_samples(int(rng.integers(1, 5)), seed=seed)
    kind = ("otherwise", "float32", "bfloat16", "batched", "threads", "stored in bfloat16")[seed % 6]
    if kind == "threads":  # of a size at which a product is shared out among threads
        model, samples = tiny_llama(seed=seed, hidden_size=128, intermediate_size=192), tiny_samples(3, seed=seed)
    by_stages = kind in ("otherwise", "batched")  # by functions that neither centre, nor train A, nor clip
    profile = "paper" if by_stages else ("paper", "released")[int(rng.integers(2))]
    limit = None if by_stages else (None, 0.05)[int(rng.integers(2))]
    rates: dict[str, Any] = {"lr": 1e-2, "schedule": "constant", "warmup_ratio": 0.0}
    training = TrainSettings(batch_size=int(rng.integers(1, 3)), max_grad_norm=limit, **rates)
    budget: dict[str, Any] = {"r_init": int(rng.integers(1, 6)), "alpha": float(rng.integers(1, 17)), "steps": 2}
    budget |= {"profile": profile, "settings": training, "overwrite": True}
    golden, candidate = folder / "golden", folder / "candidate"
    with threadpool_limits(1, user_api="blas"):
        tr.trace(model, samples, golden, **budget)
    if kind == "threads":
        with threadpool_limits(2, user_api="blas"):
            tr.trace(model, samples, candidate, **budget)
    elif kind == "stored in bfloat16":
        stored_in_bfloat16(golden, candidate)
    elif by_stages:
        record(model, samples, golden, candidate, Otherwise(rng), batched=kind == "batched")
    else:
        storage = Precision.of(kind)
        low = type(model)(model.config, {n: storage.rounded(x).astype("float32") for n, x in model.tensors.items()})
        tr.trace(low, samples, candidate, **budget)
    dtype = kind if kind in ("float32", "bfloat16") else None
    return kind, [tr.compare(golden, candidate, checkpoint=weights, dtype=dtype) for weights in (model, None)]


def main(runs: int) -> int:
    """Counts the false alarms over `runs` runs and prints each of them."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(runs):
            kind, reports = one(seed, Path(folder))
            failed = [finding.line()[:300] for report in reports for finding in report.of("fail")]
            if not all(report.passed for report in reports):
                wrong += 1
                print(f"run {seed} ({kind}):", *failed[:3], sep="\n  ")
    print(f"{wrong} false alarms in {runs} runs")
    return wrong


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 200) else 0)
