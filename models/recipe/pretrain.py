"""Pre-train the tiny Llama from random weights, with this library alone.

    python models/recipe/pretrain.py --corpus build/corpus --out build/tiny-math-llama

`--corpus` is what `prepare_corpus.py` wrote. Tokens are cut into samples of 256, every weight is trained by AdamW with
a cosine schedule, and the held-out loss is reported beside that of a unigram model of the training tokens. `--out`,
which must not exist, becomes a Hugging Face checkpoint: config, float32 weights, tokenizer, and `pretraining.json`
with every setting and loss. With `--state` a run that was stopped goes on where it was. The same seed, machine and
number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import tlora_ref as tr
from tlora_ref.transformer import family

#: 857,216 parameters: 3.4 MB in float32.
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
#: What `train` is told. Epochs over 1.64 million tokens; learning rate and betas as usual for a model of this size.
SETTINGS: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 8,
    "lr": 6e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.02,
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}
INITIAL_STD = 0.02


def initial_model(seed: int) -> Any:
    """A random float32 Llama: normal weights (those that write to the residual stream smaller), norms at one."""
    config_class, model_class = family("llama")
    config = config_class.from_dict(CONFIG)
    generator = np.random.default_rng(seed)
    residual_std = INITIAL_STD / np.sqrt(2 * CONFIG["num_hidden_layers"])
    tensors = {}
    for name, shape in model_class.tensor_shapes(config).items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, dtype=np.float32)
        else:
            std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else INITIAL_STD
            tensors[name] = generator.normal(0.0, std, shape).astype(np.float32)
    return model_class(config, tensors)


def samples(stream: np.ndarray, length: int) -> list[dict[str, list[int]]]:
    """Consecutive pieces of `length` tokens, every token a label; what is left over at the end is dropped."""
    pieces = stream[: len(stream) // length * length].reshape(-1, length)
    return [{"input_ids": piece, "labels": piece} for piece in pieces.tolist()]


def unigram_loss(train: np.ndarray, valid: np.ndarray) -> float:
    """Nats a token, on `valid`, of the token frequencies of `train` (each token counted once more)."""
    counts = np.bincount(train, minlength=CONFIG["vocab_size"]) + 1.0
    return float(-np.log(counts / counts.sum())[valid].mean())


def show(entry: dict[str, Any]) -> None:
    """One line for one entry of the training history."""
    if entry["step"] % 50 == 0 or "valid_loss" in entry:
        print("  ".join(f"{key} {value:.5g}" for key, value in entry.items() if value is not None), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--state", type=Path, help="folder to keep the run's state in, and to resume it from")
    args = parser.parse_args()

    settings = {**SETTINGS, "epochs": args.epochs, "seed": args.seed}
    streams = {name: np.load(args.corpus / f"{name}.npy") for name in ("train", "valid")}
    train, valid = (samples(stream, CONFIG["max_position_embeddings"]) for stream in streams.values())
    keeping = {"out": args.state, "save_every": 400, "resume": args.state.exists()} if args.state else {}
    model = initial_model(args.seed)
    print(f"{model.parameter_count()} parameters, {len(train)} samples a pass, {args.epochs} passes", flush=True)
    result = tr.train(
        model, None, train, trainable="all", valid=valid, eval_every=400, on_step=show, **keeping, **settings
    )

    summary = {
        "settings": settings,
        "parameters": model.parameter_count(),
        "tokens_seen": result.steps * settings["batch_size"] * CONFIG["max_position_embeddings"],
        "steps": result.steps,
        "seconds": round(result.seconds),
        "valid_loss": tr.evaluate(model, valid, batch_size=16).loss,
        "unigram_valid_loss": unigram_loss(*streams.values()),
        "corpus": json.loads((args.corpus / "corpus.json").read_text(encoding="utf-8")),
    }
    tr.save_model(model, args.out, dtype="float32")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(args.corpus / name, args.out / name)
    (args.out / "pretraining.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
