"""TLoRA from start to end on the shipped model, with every number explained. About a minute on two cores.

    python examples/01_finetune_tiny.py [--plot result.svg]

The model (models/tiny-math-llama, 857,216 weights) was pre-trained by this library on grade-school arithmetic. It is
fine-tuned to write the calculation inside a sentence: "172 people - 47 people = 125 people" -> "172-47=125". Three
models are compared on 200 held-out sentences: the base model, plain LoRA (A and B trained), and TLoRA (B alone), LoRA
at the largest uniform rank that trains no more parameters than TLoRA does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import tlora_ref as tr
from tlora_ref.data import Tokenizer, choose_samples, encode_prompt, encode_rows, load_dataset, response_text
from tlora_ref.transformer import Model

MODEL = Path(__file__).resolve().parents[1] / "models" / "tiny-math-llama"
R_INIT, STEPS, BATCH, LR = 8, 200, 16, 1e-2


def samples(split: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Encoded rows of one split of the task; only the response is scored."""
    return encode_rows(load_dataset(MODEL / "task", split), tokenizer, max_length=256)[0]


def score(model: Model, tokenizer: Tokenizer) -> tuple[float, int, int]:
    """Held-out loss (nats a token), rows answered exactly, rows."""
    rows = load_dataset(MODEL / "task", "test")
    right = 0
    for row in rows:
        prompt = encode_prompt(row, tokenizer)
        ids = model.generate(prompt, max_new_tokens=24, eos_token_id=tokenizer.eos_token_id)
        right += tokenizer.decode(ids[len(prompt) :].tolist()).strip() == response_text(row)
    return tr.evaluate(model, samples("test", tokenizer), batch_size=32).loss, right, len(rows)


def tuned(model: Model, adapter: tr.Adapter, tokenizer: Tokenizer, trainable: str) -> list[float]:
    """Train `adapter`; returns the training losses."""
    data = samples("train", tokenizer)
    result = tr.train(model, adapter, data, trainable=trainable, steps=STEPS, batch_size=BATCH, lr=LR)
    print(f"  {result.steps} steps of {BATCH} samples in {result.seconds:.0f} s, last training loss {result.loss:.3f}")
    return [entry["loss"] for entry in result.history]


def show_plan(plan: tr.Plan) -> None:
    """Rank and scale of every module, as a table."""
    print(f"  {'module':<34}{'S (Eq. 5)':>11}{'r (Eq. 6)':>11}{'alpha (Eq. 7)':>15}{'alpha/r':>9}")
    for name, r in plan.rank.items():
        note = f"  {plan.notes[name]}" if name in plan.notes else ""
        print(
            f"  {name:<34}{plan.sensitivity[name]:>11.2e}{r:>11}{plan.alpha[name]:>15.2f}{plan.scale(name):>9.3f}{note}"
        )
    print(f"  ranks sum to {sum(plan.rank.values())}; plain LoRA's budget is {len(plan.rank)} x {R_INIT}")


def plot(losses: dict[str, list[float]], results: dict[str, tuple[float, int, int]], file: str) -> None:
    """Training losses beside held-out accuracy (needs matplotlib)."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(2, 1))
    for name, values in losses.items():
        left.plot(values, label=name, linewidth=1.2)
    left.set(xlabel="step", ylabel="training loss (nats a token)", yscale="log", title="Fine-tuning tiny-math-llama")
    left.legend()
    right.bar(list(results), [100 * right_ / rows for _, right_, rows in results.values()], color="0.6")
    right.set(ylabel="% exact, held-out rows", title="200 held-out sentences", ylim=(0, 100))
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.endswith(".svg") else None)
    print(f"wrote {file}")


def main() -> None:
    """The whole story."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--plot", metavar="FILE", help="draw the result (needs matplotlib)")
    file, started = parser.parse_args().plot, time.perf_counter()
    model, tokenizer = tr.load_model(MODEL, dtype="float32"), tr.load_tokenizer(MODEL)
    results: dict[str, tuple[float, int, int]] = {"base": score(model, tokenizer)}

    print("1. Calibrate (Alg. 1, lines 4-11): 32 samples, one at a time, give every module S and C")
    chosen, _ = choose_samples(samples("train", tokenizer), 32, seed=42)
    stats = tr.calibrate(model, chosen)
    print("2. Allocate (lines 12-15): sensitive modules get more rank and a larger scale")
    shapes = model.shapes()
    plan = tr.allocate(stats.sensitivity, shapes, R_INIT, R_INIT)
    show_plan(plan)
    print("3. Initialise (lines 16-17): A from the SVD of W C, frozen; B zero.  4. Train B alone")
    adapter = tr.initialize(model, stats, plan)
    losses = {"TLoRA": tuned(model, adapter, tokenizer, "B")}
    tlora = score(model, tokenizer)
    model.detach()

    one_rank = sum(d_out + d_in for d_out, d_in in shapes.values())
    rank = max(1, adapter.trainable_parameters() // one_rank)
    print(f"5. For comparison, plain LoRA: random A, A and B trained, rank {rank} and scale 1 everywhere")
    uniform = tr.allocate(stats.sensitivity, shapes, rank, rank, adapt_rank=False, adapt_scale=False, freeze_A=False)
    lora = tr.initialize(model, None, uniform, init="random")
    losses["LoRA"] = tuned(model, lora, tokenizer, "AB")
    results |= {f"LoRA r={rank}": score(model, tokenizer), "TLoRA": tlora}

    trained = {"base": 0, f"LoRA r={rank}": lora.trainable_parameters(), "TLoRA": adapter.trainable_parameters()}
    print(f"\n  {'held-out':<12}{'trained parameters':>20}{'loss':>9}{'exact':>12}")
    for name, (loss, right, rows) in results.items():
        print(f"  {name:<12}{trained[name]:>20,}{loss:>9.3f}{right:>6} of {rows}")
    print(f"\nAll of it took {time.perf_counter() - started:.0f} s.")
    if file:
        plot(losses, results, file)


if __name__ == "__main__":
    main()
