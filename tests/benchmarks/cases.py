"""What is measured: rows of work, shapes of input, and the models; and the folder that both sides load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tlora_ref as tr
from tlora_ref.transformer import family

ROOT = Path(__file__).resolve().parents[2]
RANK = 16
PROMPT, NEW_TOKENS = 16, 64
#: Decoder layers whose modules are initialised; all layers have the same shapes.
LAYERS = 4

#: Samples of a calibration run: what is reported is the time of one.
SAMPLES = 4

#: Rows of the table, and the shapes (batch, tokens) each is measured at: calibration is by one sample,
#: initialisation of LAYERS decoder layers, decoding of one prompt.
SHAPES: dict[str, list[tuple[int, int]]] = {
    "forward": [(1, 64), (2, 256), (1, 512), (4, 512)],
    "train step": [(1, 64), (2, 256), (1, 512), (4, 512)],
    "calibration": [(1, 64), (1, 256), (1, 512)],
    "initialisation": [(1, 64)],
    "decode": [(1, PROMPT)],
}
#: What is compared with torch.compile as well.
COMPILED = {("forward", 2, 256), ("train step", 2, 256)}
#: config.json of models with random weights.
CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2": {
        **{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
        **{"max_position_embeddings": 8192, "rope_theta": 100000.0, "rms_norm_eps": 1e-5},
    },
    "llama-1b": {
        **{"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
        **{"max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    },
}
SHIPPED = {"tiny": ROOT / "models" / "tiny-math-llama"}


@dataclass(frozen=True)
class Case:
    """One row at one shape on one model: what a worker of either side is told."""

    row: str
    model: str
    batch: int
    tokens: int

    @property
    def shape(self) -> str:
        return {"decode": f"{PROMPT}+{NEW_TOKENS}", "initialisation": f"{LAYERS} layers"}.get(
            self.row, f"{self.batch}x{self.tokens}"
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def inputs(case: Case, vocab_size: int) -> np.ndarray[Any, Any]:
    """The same token ids (batch, tokens) for both sides."""
    rows = SAMPLES if case.row == "calibration" else case.batch
    return np.random.default_rng(1).integers(0, vocab_size, (rows, case.tokens))


def random_model(config: dict[str, Any], seed: int = 0) -> Any:
    """A float32 model with weights of standard deviation 0.02, as untrained ones have; norms are 1."""
    config_class, model_class = family(config["model_type"])
    settings = config_class.from_dict(config)
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        if len(shape) > 1
        else np.ones(shape, dtype=np.float32)
        for name, shape in model_class.tensor_shapes(settings).items()
    }
    return model_class(settings, tensors)


def random_adapter(model: Any, rank: int = RANK) -> tr.Adapter:
    """A LoRA adapter of one rank on all target modules, A and B random (B as after some training)."""
    shapes = model.shapes()
    plan = tr.allocate(dict.fromkeys(shapes, 1.0), shapes, rank, rank)
    adapter = tr.initialize(model, None, plan, init="random")
    rng = np.random.default_rng(2)
    for module, B in adapter.B.items():
        adapter.B[module] = (rng.standard_normal(B.shape) * 1e-3).astype(B.dtype)
    return adapter


def write_folder(name: str, folder: Path, dtype: str = "float32") -> None:
    """`folder/model` and `folder/adapter`, which both sides load. `name`: of CONFIGS, SHIPPED, or a model's folder;
    `dtype`: of the file, if its weights are random."""
    if name in CONFIGS:
        model = random_model(CONFIGS[name])
        tr.save_model(model, folder / "model", dtype)
    else:
        source = SHIPPED.get(name, Path(name)).resolve()
        model = tr.load_model(source, dtype="float32")
        (folder / "model").symlink_to(source, target_is_directory=True)
    tr.save_peft(random_adapter(model), folder / "adapter")
