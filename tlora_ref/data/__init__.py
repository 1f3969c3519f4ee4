"""Datasets, prompt templates, tokenisation, batches."""

from tlora_ref.data.batches import batches, choose_samples, halves, pack_batch, pad_batch
from tlora_ref.data.encode import EncodedRow, EncodingReport, encode_prompt, encode_row, encode_rows, response_text
from tlora_ref.data.form import sample_form
from tlora_ref.data.pieces import Pieces, token_texts
from tlora_ref.data.prompts import load_prompts
from tlora_ref.data.records import dataset_file, file_sha256
from tlora_ref.data.rows import Row, load_dataset
from tlora_ref.data.stops import StopStrings
from tlora_ref.data.templates import templates
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.data.tokenizer_folder import load_tokenizer

__all__ = [
    "EncodedRow",
    "EncodingReport",
    "Pieces",
    "Row",
    "StopStrings",
    "Tokenizer",
    "batches",
    "choose_samples",
    "dataset_file",
    "encode_prompt",
    "encode_row",
    "encode_rows",
    "file_sha256",
    "halves",
    "load_dataset",
    "load_prompts",
    "load_tokenizer",
    "pack_batch",
    "pad_batch",
    "response_text",
    "sample_form",
    "templates",
    "token_texts",
]
