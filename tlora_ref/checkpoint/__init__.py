"""Hugging Face folders in and out, PEFT adapters in and out: the one room that knows files and their vendors."""

from tlora_ref.checkpoint.export import FORMATS, export_adapter
from tlora_ref.checkpoint.folders import (
    INITIAL,
    TRAINED,
    adapter_facts,
    adapter_folder,
    check_model_folder,
    holds_adapter,
)
from tlora_ref.checkpoint.generation_config import choices_of
from tlora_ref.checkpoint.hub import find_adapter, find_model
from tlora_ref.checkpoint.load import load_model, read_config, working_dtype
from tlora_ref.checkpoint.peft_load import load_peft
from tlora_ref.checkpoint.peft_save import save_peft, save_universal
from tlora_ref.checkpoint.save import file_dtype, rounding_report, save_model
from tlora_ref.checkpoint.write import check_output

__all__ = [
    "FORMATS",
    "INITIAL",
    "TRAINED",
    "adapter_facts",
    "adapter_folder",
    "check_model_folder",
    "check_output",
    "choices_of",
    "export_adapter",
    "file_dtype",
    "find_adapter",
    "find_model",
    "holds_adapter",
    "load_model",
    "load_peft",
    "read_config",
    "rounding_report",
    "save_model",
    "save_peft",
    "save_universal",
    "working_dtype",
]
