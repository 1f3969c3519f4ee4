"""Reading a Hugging Face `config.json` without guessing: every key is used, known to be harmless, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from tlora_ref.errors import ConfigError

T = TypeVar("T")

#: The largest number that counts rows of a table (or tokens), layers, and anything else. More than any model has: a
#: damaged file must not cost the machine's memory before its numbers are held against the weights.
MAX_ROWS, MAX_LAYERS, MAX_COUNT = 2**31 - 1, 4096, 2**20
MAX_CLASSES = 1_000_000

#: Keys that never change what an evaluated model computes: bookkeeping, training-time noise.
BOOKKEEPING = frozenset(
    """architectures attention_dropout attn_pdrop auto_map attention_probs_dropout_prob chunk_size_feed_forward
    classifier_dropout create_date cross_attention_hidden_size dropout dropout_rate dtype embd_pdrop finetuning_task
    gradient_checkpointing hidden_dropout hidden_dropout_prob id2label initializer_factor initializer_range
    is_llama_config keys_to_ignore_at_inference label2id language max_seq_len max_seq_length max_sequence_length
    mlp_dropout model_max_length name neftune_noise_alpha num_labels output_attentions output_hidden_states output_past
    output_scores predict_special_tokens prefix problem_type resid_pdrop return_dict sep_token_id sentence_transformers
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params tf_legacy_loss tokenizer_class torch_dtype torchscript transformers_version
    transformers_weights unk_token_id use_bfloat16 use_cache xla_device
    """.split()  # noqa: SIM905 (a table is easier to read than eighty quoted strings)
)
#: Defaults of generation, which transformers kept in config.json up to version 4.
GENERATION = frozenset(
    """assistant_confidence_threshold assistant_early_exit assistant_lookbehind bad_words_ids begin_suppress_tokens
    cache_config cache_implementation compile_config constraints decoder_start_token_id disable_compile
    diversity_penalty do_sample dola_layers early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty
    eos_token_ids epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_words_ids forced_bos_token_id
    forced_decoder_ids forced_eos_token_id generation_kwargs guidance_scale is_assistant length_penalty low_memory
    max_cache_len max_length max_matching_ngram_size max_new_tokens max_time min_length min_new_tokens min_p
    no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
    num_return_sequences output_logits penalty_alpha prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values
    renormalize_logits repetition_penalty return_dict_in_generate return_legacy_cache sequence_bias stop_strings
    suppress_tokens target_lookbehind temperature token_healing top_h top_k top_p typical_p watermarking_config
    """.split()  # noqa: SIM905
)
HARMLESS = BOOKKEEPING | GENERATION
#: Beginnings of the keys that tools leave.
TOOLS = ("_", "unsloth_", "transformers.js", "tokenizer_", "sbert_ce_", "axolotl_", "use_flash_att", "flash_att")
#: Keys of every model in transformers, and the values at which they ask for nothing.
OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, []),
    "tie_encoder_decoder": (False,),
}


def told(value: Any) -> str:
    """A value from a file as an error message may print it: short, control characters escaped."""
    text = (repr(value) if isinstance(value, str) else str(value)).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def told_names(names: Iterable[str]) -> str:
    """Names from a file, as `told` has them, without quotes."""
    several = sorted(names)
    return ", ".join(told(name)[1:-1] for name in several[:20]) + (", ..." if len(several) > 20 else "")


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
                f'config.json: "model_type" is {told(self.values["model_type"])}, but it is being read as '
                f"{model_type!r}"
            )

    def take(self, key: str, kind: type[T] | tuple[type, ...], default: Any = ...) -> Any:
        """The value of `key`, checked to be of type `kind`; `default` if absent or null (required if none given).

        A float is finite; a whole number does for one.
        """
        self.seen.add(key)
        value = self.values.get(key)
        if value is None:
            if default is ...:
                raise ConfigError(f'config.json of a {self.model_type} model: "{key}" is missing')
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**64 else math.inf
        if float in kinds and isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f'config.json: "{key}" is {told(self.values[key])}, expected a finite number')
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(f'config.json: "{key}" is {told(value)}, expected {names}')
        return value

    def count(self, key: str, default: Any = ..., most: int | None = None) -> int:
        """A positive integer, up to `most` (by default what its name allows: layers, rows of a table, the rest)."""
        if most is None:
            rows = any(part in key for part in ("vocab", "position", "window", "distance"))
            most = MAX_ROWS if rows else MAX_LAYERS if "layer" in key else MAX_COUNT
        value = int(self.take(key, int, default))
        if not 1 <= value <= most:
            raise ConfigError(f'config.json: "{key}" is {told(value)}, expected a positive integer, at most {most:,}')
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
            expected = " or ".join(map(repr, allowed)) or "null"
            raise ConfigError(f'config.json: "{key}" is {told(value)}, but only {expected} is implemented ({why})')

    def token_id(self, key: str) -> int | None:
        """A token id; the first one where a list is given."""
        several = self.token_ids(key)
        return several[0] if isinstance(several, tuple) else several

    def token_ids(self, key: str) -> int | tuple[int, ...] | None:
        """A token id, or several where a list is given (Llama 3's instruct models end with any of three)."""
        value = self.take(key, (int, list, tuple), None)
        several = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if not all(isinstance(x, int) and not isinstance(x, bool) and abs(x) <= MAX_ROWS for x in several):
            raise ConfigError(f'config.json: "{key}" is {told(value)}, expected a token id or a list of them')
        return tuple(several) or None if isinstance(value, list | tuple) else value

    def finish(self) -> None:
        """Refuse what has been neither taken nor expected nor is known to be harmless. A null asks for nothing."""
        for key, allowed in OFF.items():
            if key not in self.seen:
                self.expect(key, allowed, "the rest is another model")
        unknown = [
            key
            for key, value in self.values.items()
            if value is not None and key not in self.seen | HARMLESS and not key.startswith(TOOLS)
        ]
        if "quantization_config" in unknown:
            raise ConfigError(
                'config.json has "quantization_config": quantised checkpoints are not supported. Save the model '
                "dequantised (float32, float16 or bfloat16) and drop that key"
            )
        if not unknown:
            return
        near = {key: get_close_matches(key[:80], self.seen | HARMLESS, 1, 0.8) for key in unknown[:20]}
        meant = [f'by "{told_names([key])}" {found[0]} may be meant' for key, found in near.items() if found]
        raise ConfigError(
            f"config.json of a {self.model_type} model has unknown key(s) {told_names(unknown)}: they may change what "
            f"the model computes{''.join(f'; {one}' for one in meant)}. If they do not, remove them from config.json"
        )
