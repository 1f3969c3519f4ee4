"""Reading a Hugging Face `config.json` without guessing: every key is used, known to be harmless, or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from tlora_ref.errors import ConfigError

T = TypeVar("T")

#: Keys that never change what an evaluated model computes: bookkeeping, generation defaults, training-time noise.
HARMLESS = frozenset(
    """_name_or_path _attn_implementation _attn_implementation_autoset architectures attention_dropout attn_pdrop
    auto_map attention_probs_dropout_prob bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    classifier_dropout cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dropout
    dropout_rate dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label initializer_factor initializer_range is_llama_config label2id length_penalty
    max_length min_length mlp_dropout no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_past output_scores prefix problem_type remove_invalid_values
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16
    use_cache
    """.split()  # noqa: SIM905 (a table is easier to read than eighty quoted strings)
)


class Settings:
    """A config.json being read: `take` what is used, `expect` what must have one value, then `finish`.

    Raises ConfigError naming the key, what it holds and what was expected.
    """

    def __init__(self, values: Mapping[str, Any], model_type: str) -> None:
        self.values = dict(values)
        self.model_type = model_type
        self.seen: set[str] = {"model_type"}
        if self.values.get("model_type") not in (None, model_type):
            raise ConfigError(
                f'config.json: "model_type" is {self.values["model_type"]!r}, but it is being read as {model_type!r}'
            )

    def take(self, key: str, kind: type[T] | tuple[type, ...], default: Any = ...) -> Any:
        """The value of `key`, checked to be of type `kind`; `default` if absent or null (required if none given)."""
        self.seen.add(key)
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise ConfigError(f'config.json of a {self.model_type} model: "{key}" is missing')
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f'config.json: "{key}" is {value!r}, expected {names}')
        return value

    def count(self, key: str, default: Any = ...) -> int:
        """A positive integer."""
        value = int(self.take(key, int, default))
        if value < 1:
            raise ConfigError(f'config.json: "{key}" is {value}, expected a positive integer')
        return value

    def count_or_none(self, key: str) -> int | None:
        """A positive integer, or None if absent or null."""
        self.seen.add(key)
        return None if self.values.get(key) is None else self.count(key)

    def number_or_none(self, key: str) -> float | None:
        """A number above 0, or None if absent or null."""
        value = self.take(key, float, None)
        if value is not None and not 0.0 < value < math.inf:
            raise ConfigError(f'config.json: "{key}" is {value}, expected a number above 0, or null')
        return None if value is None else float(value)

    def number(self, key: str) -> float:
        """A number above 0."""
        self.take(key, float)
        return float(self.number_or_none(key) or 0.0)

    def expect(self, key: str, allowed: Sequence[Any], why: str) -> None:
        """`key` is absent, null or one of `allowed`: any other value asks for something that is not implemented."""
        self.seen.add(key)
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise ConfigError(
                f'config.json: "{key}" is {value!r}, but only {" or ".join(map(repr, allowed))} is implemented ({why})'
            )

    def token_id(self, key: str) -> int | None:
        """A token id; the first one where a list is given."""
        several = self.token_ids(key)
        return several[0] if isinstance(several, tuple) else several

    def token_ids(self, key: str) -> int | tuple[int, ...] | None:
        """A token id, or several where a list is given (Llama 3's instruct models end with any of three)."""
        value = self.take(key, (int, list, tuple), None)
        if value is None or isinstance(value, int):
            return value
        if not all(isinstance(x, int) and not isinstance(x, bool) for x in value):
            raise ConfigError(f'config.json: "{key}" is {value!r}, expected a token id or a list of them')
        return tuple(value) or None

    def finish(self) -> None:
        """Refuse what has been neither taken nor expected nor is known to be harmless."""
        unknown = sorted(k for k in set(self.values) - self.seen - HARMLESS if not k.startswith("_"))
        if "quantization_config" in unknown:
            raise ConfigError(
                'config.json has "quantization_config": quantised checkpoints are not supported. Save the model '
                "dequantised (float32, float16 or bfloat16) and drop that key"
            )
        if unknown:
            raise ConfigError(
                f"config.json of a {self.model_type} model has unknown key(s) {', '.join(unknown)}: they may change "
                "what the model computes. If they do not, remove them from config.json"
            )
