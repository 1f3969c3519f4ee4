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
            "calibrate, train or evaluate on. `tlora-ref train` and `init` give it one for the classes of --labels a,b "
            "or of --task (sst2, say), and its adapter brings that along; from Python, load_model(folder, labels=(...))"
        )
    return FORM_OF[model.task_type]
