"""From files and settings to samples, adapters, and models ready for use: what the commands are made of."""

from tlora_ref.pipeline.adapters import (
    AdapterSettings,
    calibrate_for,
    is_bare_encoder,
    load_adapted,
    load_statistics,
    make_adapter,
)
from tlora_ref.pipeline.chatting import Chat
from tlora_ref.pipeline.in_parts import adapter_in_parts
from tlora_ref.pipeline.merging import Merged, merge_checkpoint
from tlora_ref.pipeline.preview import BatchLoss, Preview, RowPreview, first_batch_loss, preview, weightless_model
from tlora_ref.pipeline.prompts import Prompting, encode_question, prompting_of, read_prompting, with_system
from tlora_ref.pipeline.responding import Responder, Response, finishes
from tlora_ref.pipeline.samples import DataSource, load_tokenizer_for

__all__ = [
    "AdapterSettings",
    "BatchLoss",
    "Chat",
    "DataSource",
    "Merged",
    "Preview",
    "Prompting",
    "Responder",
    "Response",
    "RowPreview",
    "adapter_in_parts",
    "calibrate_for",
    "encode_question",
    "finishes",
    "first_batch_loss",
    "is_bare_encoder",
    "load_adapted",
    "load_statistics",
    "load_tokenizer_for",
    "make_adapter",
    "merge_checkpoint",
    "preview",
    "prompting_of",
    "read_prompting",
    "weightless_model",
    "with_system",
]
