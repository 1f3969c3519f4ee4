"""Plain LoRA trained from scratch: A and B under AdamW, from a golden trace's batches, with a mistake planted if asked.

Written for the tests: the gradients of A and B follow from dL/dW' of the model (dB = s G A^T, dA = s B^T G), the
updates from the gallery's AdamW. Nothing of `training/`, `method/` or the judges is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.oracle.gallery import adam
from tlora_ref.adapter import Adapter
from tlora_ref.autograd import grad
from tlora_ref.oracle.recorder import Recorder
from tlora_ref.transformer import Model

Array = np.ndarray
USUAL: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def record(
    golden: Path,
    folder: Path,
    model: Model,
    *,
    draw: Callable[[str, Array], Array] = lambda module, A: A,
    rank: Callable[[int], int] = lambda r: r,
    scale: float | None = None,
    gradient: Callable[[str, Array, float], Array] = lambda letter, g, s: g,
    slip: Callable[[str], dict[str, Any]] = lambda letter: {},
    rate: Callable[[str], float] = lambda letter: 1.0,
    frozen: bool = False,
    merge_first_A: bool = False,
) -> None:
    """A candidate's trace: A by `draw` of the golden one, all else as told."""
    recorder = Recorder(golden, "float64")
    facts, shapes = recorder.golden.manifest, recorder.golden.shapes
    s = facts.alpha / facts.r_init if scale is None else scale
    A = {m: draw(m, recorder.golden.get(f"A/{m}"))[: rank(facts.r_init)] for m in shapes}
    first = dict(A)
    B = {m: np.zeros((shapes[m][0], len(A[m]))) for m in shapes}
    recorder.add(A=A, rank={m: len(x) for m, x in A.items()}, scale=dict.fromkeys(A, s))
    state = {(letter, m): (np.zeros_like(x[m]),) * 2 for letter, x in (("A", A), ("B", B)) for m in shapes}
    for t, lr, batch in recorder.batches():
        model.attach(Adapter(A, B, dict.fromkeys(A, s)))
        leaves = [f"{m}.weight" for m in shapes]
        output = model.watching(leaves)(**batch)
        G, loss = grad(output.loss, leaves), float(output.loss.data)
        model.detach()
        arrays: dict[str, dict[str, Array]] = {}
        for m in shapes:  # both gradients before either update
            found = {"B": s * G[f"{m}.weight"] @ A[m].T, "A": s * B[m].T @ G[f"{m}.weight"]}
            for letter, matrices in (("A", A), ("B", B)):
                g = gradient(letter, found[letter], s)
                settings = {**USUAL, "step": t, "lr": lr * rate(letter), **slip(letter)}
                if letter == "A" and frozen:
                    arrays.setdefault("A", {})[m] = A[m]
                    continue
                new, mean, square = adam(matrices[m], g, *state[letter, m], **settings)
                matrices[m], state[letter, m] = new, (mean, square)
                prefix = "A_" if letter == "A" else ""
                made = {f"grad_{letter}": g, letter: new, f"{prefix}exp_avg": mean, f"{prefix}exp_avg_sq": square}
                for kind, x in made.items():
                    arrays.setdefault(kind, {})[m] = x
        recorder.step(t, loss=loss, lr=lr, **arrays)
    kept = first if merge_first_A else A
    recorder.write(folder, merged={m: model.weight(m) + s * B[m] @ kept[m] for m in shapes})
