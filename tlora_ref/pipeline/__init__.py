"""From files and settings to samples, adapters, and models ready for use: what the commands are made of."""

from tlora_ref.pipeline.adapters import (
    AdapterSettings,
    calibrate_for,
    is_bare_encoder,
    load_adapted,
    load_statistics,
    make_adapter,
)
from tlora_ref.pipeline.merging import Merged, merge_checkpoint
from tlora_ref.pipeline.prompts import Prompting, encode_question, prompting_of, read_prompting
from tlora_ref.pipeline.samples import DataSource, load_tokenizer_for

__all__ = [
    "AdapterSettings",
    "DataSource",
    "Merged",
    "Prompting",
    "calibrate_for",
    "encode_question",
    "is_bare_encoder",
    "load_adapted",
    "load_statistics",
    "load_tokenizer_for",
    "make_adapter",
    "merge_checkpoint",
    "prompting_of",
    "read_prompting",
]
