"""A user's file, which mypy --strict reads against the installed wheel: the public names are typed, and fit."""

import tlora_ref as tr
from tlora_ref.data import encode_rows, load_dataset


def tuned(folder: str, data: str) -> float:
    """README's lines, typed."""
    model, tokenizer = tr.load_model(folder, dtype="float32"), tr.load_tokenizer(folder)
    samples, _ = encode_rows(load_dataset(data), tokenizer, max_length=256)
    stats = tr.calibrate(model, samples[:4])
    plan = tr.allocate(stats.sensitivity, model.shapes(), 8, 8)
    adapter = tr.initialize(model, stats, plan)
    tr.train(model, adapter, samples, steps=3, batch_size=4)
    tr.save_peft(adapter, "adapter")
    ranks: dict[str, int] = plan.rank
    return tr.evaluate(model, samples).loss / max(1, sum(ranks.values()))
