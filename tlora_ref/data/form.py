"""What a model makes of a row."""

from __future__ import annotations

from typing import Any, Protocol

from tlora_ref.errors import ConfigError

#: PEFT's name for what a model does -> the form of its samples, as `encode_rows` calls it.
FORM_OF = {"SEQ_CLS": "classes", "SEQ_2_SEQ_LM": "seq2seq", "CAUSAL_LM": "causal"}


class _Model(Protocol):
    config: Any

    @property
    def task_type(self) -> str: ...


def sample_form(model: _Model) -> str:
    """The form of a model's samples: "causal", "seq2seq" or "classes"; ConfigError for a model that has no loss."""
    if model.task_type not in FORM_OF:
        raise ConfigError(
            f"this {model.config.model_type} checkpoint is a bare encoder: without a head there is no loss to "
            "calibrate or train on. Give it one with transformers: AutoModelForSequenceClassification.from_pretrained("
            "MODEL, num_labels=...).save_pretrained(FOLDER)"
        )
    return FORM_OF[model.task_type]
