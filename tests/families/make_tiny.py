"""A tiny random checkpoint of every family, as folders that transformers loads too:

    python -m tests.families.make_tiny FOLDER

The weights depend on the seed and the family alone, so that the same folders are made everywhere, byte for byte.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.families.common import CLASSIFIERS, CONFIGS, PAD, random_tensors
from tlora_ref.checkpoint import save_model
from tlora_ref.transformer import FAMILIES, Model, family

ENCODER = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "id2label": {"0": "no", "1": "yes"},
}
DISTIL = {"vocab_size": 31, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
T5 = {
    **{"vocab_size": 31, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4},
    **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
}
HEAD = {"pad_token_id": PAD, "id2label": {"0": "no", "1": "maybe", "2": "yes"}}

#: The relative positions of DeBERTa v3, with fewer buckets.
DISENTANGLED = {
    **{"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    **{"pos_att_type": "p2c|c2p", "position_biased_input": False, "type_vocab_size": 0},
}
#: ModernBERT with one layer that sees all tokens and one that sees two on either side.
MODERN = {k: v for k, v in ENCODER.items() if k not in ("pad_token_id", "id2label")} | {
    **{"local_attention": 4, "bos_token_id": 1, "eos_token_id": 2},
}

#: Name of the folder -> config.json.
MODELS: dict[str, dict[str, Any]] = {
    **CONFIGS,
    **{
        f"{kind}-classifier": {**CONFIGS[kind], **HEAD, "architectures": [architecture]}
        for kind, architecture in CLASSIFIERS.items()
    },
    "t5": {**T5, "model_type": "t5", "feed_forward_proj": "relu", "tie_word_embeddings": True},
    "t5-gated": {**T5, "model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bert": {**ENCODER, "model_type": "bert", "architectures": ["BertForSequenceClassification"]},
    "roberta": {
        **ENCODER,
        **{"model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "type_vocab_size": 1},
    },
    "modernbert": {
        **{**ENCODER, **MODERN, "pad_token_id": 0},
        **{"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"]},
    },
    "electra": {
        **ENCODER,
        **{"model_type": "electra", "architectures": ["ElectraForSequenceClassification"], "embedding_size": 12},
    },
    "deberta-v2": {
        **{**ENCODER, **DISENTANGLED, "pad_token_id": 0},
        **{"model_type": "deberta-v2", "architectures": ["DebertaV2ForSequenceClassification"]},
    },
    "distilbert": {
        **DISTIL,
        **{"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]},
        **{"pad_token_id": 0, "id2label": {"0": "no", "1": "yes"}},
    },
}


def tiny_model(name: str, seed: int = 0) -> Model:
    """One of the tiny models, in float32, as its folder holds it."""
    values = MODELS[name]
    config_class, model_class = family(values["model_type"], values.get("architectures"))
    config = config_class.from_dict(values)
    tensors = random_tensors(model_class.tensor_shapes(config), seed)
    return model_class(config, {key: x.astype("float32") for key, x in tensors.items()})


def make_all(folder: str | Path, seed: int = 0) -> list[Path]:
    """Write every tiny checkpoint below `folder`, and return their folders."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    made = []
    for name, values in MODELS.items():
        if values["model_type"] in FAMILIES:
            made.append(Path(folder) / name)
            save_model(tiny_model(name, seed), made[-1])
    return made


if __name__ == "__main__":
    for path in make_all(sys.argv[1]):
        print(path)
