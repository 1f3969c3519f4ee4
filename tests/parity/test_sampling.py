"""What can be drawn next, and where a stop string ends a text, as in transformers' own `generate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama
from tlora_ref.data import StopStrings, load_tokenizer
from tlora_ref.shipped import shipped_model
from tlora_ref.transformer.sampling import Sampling, penalised

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SETTINGS = [
    {"top_k": 5},
    {"top_k": 99},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.6, "temperature": 1.7},
    {"temperature": 0.7, "top_k": 9, "top_p": 0.8, "min_p": 0.15, "repetition_penalty": 1.3},
    {"temperature": 2.5, "top_k": 20, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 2.0},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One tiny model, here and in transformers."""
    folder = tmp_path_factory.mktemp("model")
    tr.save_model(tiny_llama(), folder / "m")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "m", dtype=torch.float64)
    theirs.generation_config.eos_token_id = None
    return tr.load_model(folder / "m"), theirs


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_distribution_of_every_step(pair: tuple[Any, Any], settings: dict[str, float]) -> None:
    ours, theirs = pair
    settings = {"temperature": 1.0, **settings}
    prompt = [3, 4, 5, 3]
    torch.manual_seed(0)
    found = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=True,
        max_new_tokens=12,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **{"top_k": 0, **settings},  # without it transformers takes 50
    )
    ids, how = found.sequences[0].tolist(), Sampling(**settings)
    for step, scores in enumerate(found.scores):
        before = ids[: len(prompt) + step]
        tokens, p = how.candidates(penalised(ours(before).logits[-1], before, how.repetition_penalty))
        expected = torch.softmax(scores[0].double(), -1).numpy()
        assert set(tokens) == set(np.flatnonzero(expected))
        np.testing.assert_allclose(p, expected[tokens], rtol=2e-5)  # their scores are float32


def test_the_penalty_in_greedy_generation(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    made = theirs.generate(
        torch.tensor([[3, 4, 5]]),
        attention_mask=torch.ones(1, 3, dtype=torch.int64),
        do_sample=False,
        repetition_penalty=1.5,
        max_new_tokens=20,
        pad_token_id=0,
    )
    assert (
        ours.generate([3, 4, 5], max_new_tokens=20, repetition_penalty=1.5, eos_token_id=-1).tolist()
        == made[0].tolist()
    )


@pytest.mark.parametrize("stop", ["=", "7+", "1=", " 2", "+2", "\n7", "<|eos|>", "zzz"])
def test_where_a_stop_string_ends_a_text(stop: str) -> None:
    folder = shipped_model()
    ours, tokenizer = tr.load_model(folder, "float32"), load_tokenizer(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.encode("He paid 7+12=19 dollars.\n", add_special_tokens=True)
    made = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=24,
        stop_strings=[stop, "qqq"],
        tokenizer=their_tokenizer,
    )[0].tolist()
    ends = ours.ends(tokenizer.eos_token_id)
    found = ours.generate(prompt, max_new_tokens=24, stop=StopStrings(tokenizer, [stop, "qqq"]), eos_token_id=ends)
    assert found.tolist() == made
