"""Algorithm 1 as the paper prints it, on the shipped model, beside what the library runs. A few seconds.

    python examples/06_algorithm_1.py

`tlora_ref/algorithm.py` is the method on one page. Of every sample and module it wants the input X and the gradient
dLoss/dW. A model shows its inputs to whoever observes it, and `grad` gives the gradients of the weights that the model
was told to watch: with these two the page runs on any model. The library's own way (`calibrate`, `allocate`,
`initialize`) forms the same sums faster and may spread them over processes; the last lines show how far the two are
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tlora_ref as tr
from tlora_ref.algorithm import Observation, algorithm_1
from tlora_ref.backend import Array
from tlora_ref.data import choose_samples, encode_rows, load_dataset
from tlora_ref.method.theory import largest_sine
from tlora_ref.transformer import Model

MODEL = Path(__file__).resolve().parents[1] / "models" / "tiny-math-llama"
R_INIT = ALPHA = 8


def observations(model: Model, sample: dict[str, Any]) -> Callable[[str], Observation]:
    """What one sample shows of every module: X (T, d_in) and dLoss/dW (d_out, d_in)."""
    modules = list(model.shapes())
    X: dict[str, Array] = {}

    def keep(module: str, x: Array) -> None:  # called as each module is given its input (1, T, d_in)
        X[module] = x[0]

    view = model.watching([f"{module}.weight" for module in modules]).observing(keep)
    dW = tr.grad(view(**sample).loss, modules)
    return lambda module: (X[module], dW[module])


def main() -> None:
    """Run the page, run the library, compare."""
    model, tokenizer = tr.load_model(MODEL, dtype="float64"), tr.load_tokenizer(MODEL)
    rows = load_dataset(MODEL / "task", "train")
    samples, _ = choose_samples(encode_rows(rows, tokenizer, max_length=256)[0], 32, seed=42)

    W = {module: model.weight(module) for module in model.shapes()}
    by_sample = (observations(model, sample) for sample in samples)  # one at a time: none is kept
    r, alpha, A, B = algorithm_1(W, by_sample, R_INIT, ALPHA, tr.PROFILES["paper"])

    stats = tr.calibrate(model, samples)  # lines 4 to 11
    plan = tr.allocate(stats.sensitivity, model.shapes(), R_INIT, ALPHA)  # lines 12 to 15
    adapter = tr.initialize(model, stats, plan)  # lines 16 and 17

    print(f"{'module':<34}{'r':>4}{'alpha':>8}   the library's r, alpha   angle between the two A (its sine)")
    sines = {module: largest_sine(A[module], adapter.A[module]) for module in A}
    for module in W:
        sine = f"{sines[module]:.0e}" if module in A else "no A: rank 0"
        print(
            f"{module:<34}{r[module]:>4}{alpha[module]:>8.3f}{plan.rank[module]:>13}{plan.alpha[module]:>8.3f}   {sine}"
        )
    apart = max(abs(alpha[module] - plan.alpha[module]) / max(plan.alpha.values()) for module in W)
    same = r == plan.rank and all(not B[m].any() and B[m].shape == adapter.B[m].shape for m in B)
    print(
        f"\nranks and B are {'the same' if same else 'NOT the same'}; alphas differ by {apart:.0e} at most (relative to"
    )
    print(f"the largest), the row spaces of A by an angle of {max(sines.values()):.0e} at most.")


if __name__ == "__main__":
    main()
