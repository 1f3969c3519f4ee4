"""Tiny encoders, bare and with a classifier, and batches for them. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.common import made
from tests.families.make_tiny import DISENTANGLED, DISTIL, ENCODER, MODERN
from tlora_ref.transformer import Model

SIZES = {k: v for k, v in ENCODER.items() if k not in ("pad_token_id", "id2label")}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**SIZES, "model_type": "bert", "pad_token_id": 0},
    "roberta": {**SIZES, "model_type": "roberta", "pad_token_id": 2},
    "distilbert": {**DISTIL, "model_type": "distilbert", "pad_token_id": 0},
    "electra": {**SIZES, "model_type": "electra", "pad_token_id": 0, "embedding_size": 12},
    "modernbert": {**MODERN, "model_type": "modernbert", "pad_token_id": 0},
    "deberta-v2": {**SIZES, **DISENTANGLED, "model_type": "deberta-v2", "pad_token_id": 0},
}
BARE = {
    **{"bert": "BertModel", "roberta": "RobertaModel", "distilbert": "DistilBertModel", "electra": "ElectraModel"},
    **{"deberta-v2": "DebertaV2Model", "modernbert": "ModernBertModel"},
}
#: How many token types a family has unless its config.json says.
TOKEN_TYPES = {"bert": 2, "roberta": 2, "electra": 2}
CLASSIFIERS = {kind: name.replace("Model", "ForSequenceClassification") for kind, name in BARE.items()}
HEAD = {"id2label": {"0": "a", "1": "b", "2": "c"}}


def bare(kind: str, seed: int = 0, dtype: str = "float64", **changes: Any) -> Model:
    """A random encoder without a head."""
    return made({**CONFIGS[kind], "architectures": [BARE[kind]], **changes}, seed, dtype)


def classifier(kind: str, seed: int = 0, dtype: str = "float64", **changes: Any) -> Model:
    """A random classifier of 3 classes."""
    return made({**CONFIGS[kind], "architectures": [CLASSIFIERS[kind]], **HEAD, **changes}, seed, dtype)


def batch(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of 9, 6 and 1 tokens, padded on the right with the family's padding token, and a class each."""
    rng, pad = np.random.default_rng(seed), CONFIGS[kind]["pad_token_id"]
    ids, mask = np.full((3, 9), pad), np.zeros((3, 9), dtype=int)
    for row, length in enumerate((9, 6, 1)):
        ids[row, :length], mask[row, :length] = rng.integers(3, 31, length), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": np.array([2, 0, 1])}
