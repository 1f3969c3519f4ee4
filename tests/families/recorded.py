"""What transformers computed, in true float64, of every tiny model of `make_tiny`; written anew by

    python -m tests.families.recorded [NAME ...]

which needs PyTorch and transformers. `test_recorded.py` compares with it, and needs neither. T5's is a recorded case of
`tests/data/traces`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.families.common import padded_batch
from tests.families.make_tiny import MODELS, tiny_model
from tlora_ref.checkpoint import save_model
from tlora_ref.transformer import Model

FOLDER = Path(__file__).parent / "recorded"
NAMES = sorted(name for name, values in MODELS.items() if values["model_type"] != "t5")
NEW_TOKENS = 8


def inputs_of(model: Model, side: str = "right") -> dict[str, np.ndarray]:
    """Rows of 9, 6 and 4 tokens, padded on one side with the model's padding token, and their labels."""
    batch = padded_batch(side, rows=(9, 6, 4), seed=2)
    pad = model.config.pad_token_id
    batch["input_ids"] = np.where(batch["attention_mask"] == 1, np.maximum(batch["input_ids"], 3), pad or 0)
    if model.task_type == "SEQ_CLS":
        return {**batch, "labels": np.array([1, 0, 1])}
    return {**batch, "labels": np.where(batch["labels"] == -100, -100, batch["input_ids"])}


def scored(model: Model, mask: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The logits of what is not padding: (rows, classes), or (tokens, vocab)."""
    return logits if model.task_type == "SEQ_CLS" else logits[mask == 1]


def digests(gradients: dict[str, np.ndarray]) -> np.ndarray:
    """The norm of every gradient, and its product with a random matrix of its own: (tensors by name, 2)."""
    found = []
    for number, name in enumerate(sorted(gradients)):
        probe = np.random.default_rng(number).standard_normal(gradients[name].shape)
        found.append((np.linalg.norm(gradients[name]), (probe * gradients[name]).sum()))
    return np.array(found)


def read(name: str) -> dict[str, np.ndarray]:
    """The recording of a tiny model."""
    return load_file(FOLDER / f"{name}.safetensors")


def record(name: str) -> dict[str, np.ndarray]:
    """Logits, loss, digests of the gradients and, of a language model, greedy tokens, by transformers."""
    import torch
    import transformers

    from tests.parity.float64 import true_float64, watched

    mine = tiny_model(name)
    batch = inputs_of(mine)
    given = {key: torch.from_numpy(x) for key, x in batch.items()}
    with TemporaryDirectory() as folder, true_float64():
        save_model(mine, Path(folder) / "m")
        load = getattr(transformers, mine.config.to_dict()["architectures"][0]).from_pretrained
        theirs = load(Path(folder) / "m", dtype=torch.float64, attn_implementation="eager").eval()
    with true_float64(theirs), watched():
        out = theirs(**given)
        out.loss.backward()
    # A weight that is not used has no gradient there and a zero here.
    raw = {key: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for key, p in theirs.named_parameters()}
    found = {
        "logits": scored(mine, batch["attention_mask"], out.logits.detach().numpy()),
        "loss": np.array([out.loss.item()]),
        "gradients": digests(type(mine).sanitize(raw, mine.config)),
    }
    return found if mine.task_type == "SEQ_CLS" else {**found, "tokens": greedy(theirs, mine)}


def greedy(theirs: Any, mine: Model) -> np.ndarray:
    """transformers' continuation of the rows, padded on the left: (rows, NEW_TOKENS)."""
    import torch

    from tests.parity.float64 import true_float64

    batch = inputs_of(mine, "left")
    theirs.generation_config.eos_token_id = None
    with true_float64(theirs), torch.no_grad():
        made = theirs.generate(
            torch.from_numpy(batch["input_ids"]),
            attention_mask=torch.from_numpy(batch["attention_mask"]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
    return made.numpy()[:, -NEW_TOKENS:]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in sys.argv[1:] or NAMES:
        save_file({key: np.ascontiguousarray(x) for key, x in record(each).items()}, FOLDER / f"{each}.safetensors")
        print(FOLDER / f"{each}.safetensors")
