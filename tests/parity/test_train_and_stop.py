"""A model learns an answer and stops: trained, merged and generating here, it generates the same in transformers.

For a tokenizer like Llama-2's (a blank put first, by a normalizer), and for one like T5's in an encoder and decoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.data_room.kinds import backend_of
from tests.tiny import tiny_llama
from tlora_ref.data import Row, encode_prompt, encode_rows, load_dataset, load_tokenizer, sample_form
from tlora_ref.transformer import Model, family

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
ROWS = [
    {"prompt": "Q: what is the capital of France? A:", "completion": " Paris"},
    {"prompt": "hello ", "completion": "world"},  # the blank before "world" lies across the seam
    {"prompt": "how are you\n", "completion": "I am well."},
]
TURNS = [{"role": "user", "content": ROWS[0]["prompt"]}, {"role": "assistant", "content": "Paris, 345"}]


def tiny_t5(vocab: int) -> Model:
    values = {"vocab_size": vocab, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
    values |= {"model_type": "t5", "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    config_class, model_class = family("t5")
    config, rng = config_class.from_dict(values), np.random.default_rng(0)
    shapes = model_class.tensor_shapes(config)
    return model_class(config, {n: 0.3 * rng.standard_normal(s) + (len(s) == 1) for n, s in shapes.items()})


def folder_of(path: Path, model: Model, kind: str) -> Path:
    tr.save_model(model, path / "base")
    backend_of(kind).save(str(path / "base" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT}
    config |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (path / "base" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path / "base"


def trained(base: Path, rows: list[Row], out: Path) -> Model:
    """The model of `base` with an adapter that knows the rows by heart, merged and written to `out`."""
    model, tokenizer = tr.load_model(base), load_tokenizer(base)
    samples, _ = encode_rows(rows, tokenizer, form=sample_form(model))
    stats = tr.calibrate(model, samples)
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 8, 16))
    tr.train(model, adapter, samples, steps=150, batch_size=len(samples), lr=2e-2)
    model.detach()
    merged = model.merge(adapter)
    tr.save_model(merged, out, source=base)
    return merged


def check(base: Path, path: Path, rows: list[Row], prompts: list[Any], answers: list[str], kind: Any) -> None:
    merged, ours = trained(base, rows, path / "merged"), load_tokenizer(base)
    theirs = kind.from_pretrained(path / "merged", dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path / "merged")
    for row, prompt, answer in zip(rows, prompts, answers, strict=True):
        ids = encode_prompt(row, ours, form=sample_form(merged))
        theirs_ids = tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt(tokenizer)
        assert ids == theirs_ids
        made = merged.generate(ids, max_new_tokens=20, eos_token_id=merged.ends(ours.eos_token_id)).tolist()
        found = theirs.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0].tolist()
        assert made == found and made[-1] == ours.eos_token_id
        assert ours.decode(made[len(ids) if made[: len(ids)] == ids else 1 :]).strip() == answer


def test_a_tokenizer_like_llama_2s(tmp_path: Path) -> None:
    vocab = backend_of("Prepend and Replace").get_vocab_size()
    base = folder_of(tmp_path, tiny_llama(vocab_size=vocab, hidden_size=32, eos_token_id=2), "Prepend and Replace")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    prompts, answers = [row["prompt"] for row in ROWS], [row["completion"].strip() for row in ROWS]
    check(base, tmp_path, load_dataset(tmp_path / "rows.jsonl"), prompts, answers, transformers.LlamaForCausalLM)


def test_a_conversation_under_a_tokenizer_like_llama_2s(tmp_path: Path) -> None:
    vocab = backend_of("Prepend and Replace").get_vocab_size()
    base = folder_of(tmp_path, tiny_llama(vocab_size=vocab, hidden_size=32, eos_token_id=2), "Prepend and Replace")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": TURNS}), encoding="utf-8")

    def prompt(tokenizer: Any) -> Any:
        return tokenizer.apply_chat_template(TURNS[:1], add_generation_prompt=True, return_dict=True)["input_ids"]

    rows = load_dataset(tmp_path / "rows.jsonl")
    check(base, tmp_path, rows, [prompt], ["Paris, 345"], transformers.LlamaForCausalLM)


def test_a_tokenizer_like_t5s(tmp_path: Path) -> None:
    base = folder_of(tmp_path, tiny_t5(backend_of("Unigram").get_vocab_size()), "Unigram")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    prompts, answers = [row["prompt"] for row in ROWS], [row["completion"].strip() for row in ROWS]
    rows = load_dataset(tmp_path / "rows.jsonl")
    check(base, tmp_path, rows, prompts, answers, transformers.T5ForConditionalGeneration)
