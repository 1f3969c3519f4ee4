"""Likelihoods and texts through lm-evaluation-harness: by the model's own logits, and as its `hf` class has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tlora_ref.errors import ConfigError

pytest.importorskip("lm_eval", reason="lm-evaluation-harness: the extra `lm-eval`")

from tlora_ref.harness.model import HarnessModel

MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny-math-llama"
ROWS = [
    {"question": f"{a} people + {b} people = ", "choices": [f"{a + b} people", f"{a} people", "7"], "gold": 0}
    for a, b in ((12, 30), (5, 9), (101, 17), (8, 8), (64, 2), (40, 41))
]
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}{{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "text": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n", "p"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def asked(*requests: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=request) for request in requests]


@pytest.fixture(scope="module")
def model() -> HarnessModel:
    return HarnessModel(str(MODEL), dtype="float64", batch_size=4)


def log_p(model: HarnessModel, ids: list[int]) -> np.ndarray:
    """(tokens - 1, vocab) log probabilities of what follows each token, one row alone."""
    logits = model.model(np.array(ids)).logits
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))[:-1]


def test_likelihoods_are_the_models_own_whatever_stands_beside_them(model: HarnessModel) -> None:
    pairs = [
        ("2 + 2", " = 4"),
        ("a long sentence about 12 apples and 3 pears is ", "15"),
        ("", "one"),
        ("9 - 4 = ", "5"),
    ]
    found = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    for (context, continuation), (total, likeliest) in zip(pairs, found, strict=True):
        # lm-eval scores blanks at the end of a context with what follows
        before = model.tok_encode(context.rstrip()) if context else [model.prefix_token_id]
        after = model.tok_encode(context + continuation)[len(before) :] if context else model.tokenizer.encode("one")
        table = log_p(model, [*before, *after])[-len(after) :]
        assert total == pytest.approx(sum(table[i, token] for i, token in enumerate(after)), rel=1e-12)
        assert likeliest == all(table[i].argmax() == token for i, token in enumerate(after))


def test_a_text_longer_than_the_context_is_scored_token_by_token_once(model: HarnessModel) -> None:
    short = HarnessModel(str(MODEL), dtype="float64", max_length=8)
    text = "12 people + 30 people = 42 people and 5 more"
    tokens = short.tok_encode(text)
    assert len(tokens) > 2 * short.max_length
    expected, n = 0.0, short.max_length
    for i, token in enumerate(tokens):
        at = i - i % n  # windows of n: [prefix, t0 ... t6], then each full, ending where its last scored token does
        end = min(at + n, len(tokens))
        row = (
            [short.prefix_token_id, *tokens][max(0, end - n) : end + 1] if at else [short.prefix_token_id, *tokens[:n]]
        )
        expected += log_p(short, row)[len(row) - 1 - (end - i), token] if at else log_p(short, row)[i, token]
    (found,) = short.loglikelihood_rolling(asked((text,)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_texts_end_at_stops_and_keep_their_order(model: HarnessModel) -> None:
    arguments = {"until": ["p"], "max_gen_toks": 8}
    contexts = ["12 people + 30 people = ", "9 - 4 = ", "5 people + 9 people = "]
    found = model.generate_until(
        asked(*((c, arguments if i != 1 else {"max_gen_toks": 3}) for i, c in enumerate(contexts)))
    )
    for i, (context, text) in enumerate(zip(contexts, found, strict=True)):
        prompt = model.tok_encode(context)
        ids = model.model.generate(prompt, max_new_tokens=3 if i == 1 else 8)[len(prompt) :]
        assert text == model.tokenizer.decode(ids.tolist()).split("p" if i != 1 else "\0")[0]


def test_an_adapter_counts(tmp_path: Path, model: HarnessModel) -> None:
    base = tr.load_model(MODEL)
    samples = [{"input_ids": np.array([1, 5, 9]), "labels": np.array([1, 5, 9])}]
    settings = tr.AdapterSettings(rank=1, samples=1)
    adapter = tr.make_adapter(settings, base, tr.calibrate_for(settings, base, samples)[0])
    for B in adapter.B.values():
        B += 0.05
    tr.save_peft(adapter, tmp_path / "adapter")
    with_it = HarnessModel(str(MODEL), adapter=str(tmp_path / "adapter"), dtype="float64")
    pair = asked(("2 + 2", " = 4"))
    assert with_it.loglikelihood(pair, disable_tqdm=True) != model.loglikelihood(pair, disable_tqdm=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"peft": "OUT"}, "did you mean|adapter"),
        ({"batch_size": "auto"}, "batch_size is auto"),
        ({"max_lenght": 3}, "max_lenght is not known"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HarnessModel(str(MODEL), **arguments)


def test_generation_refuses_what_it_does_not_know(model: HarnessModel) -> None:
    with pytest.raises(ConfigError, match="num_beams is not known"):
        model.generate_until(asked(("a", {"num_beams": 4, "max_gen_toks": 2})))
    with pytest.raises(ConfigError, match="leaves no room"):
        model.generate_until(asked(("a", {"max_gen_toks": model.max_length})))


@pytest.mark.parity
def test_the_figures_are_those_of_the_hf_class(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    place = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    for name, task in TASKS.items():
        config = {"task": f"tlora_{name}", **place, "test_split": "test", **task}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = {}
    for kind in ("hf", "tlora_ref"):
        arguments = f"pretrained={MODEL},dtype=float32"
        found[kind] = simple_evaluate(
            model=kind, model_args=arguments, tasks=[f"tlora_{name}" for name in TASKS], task_manager=tasks,
            batch_size=2, device="cpu", bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    for name in TASKS:
        theirs, ours = (found[kind]["results"][f"tlora_{name}"] for kind in ("hf", "tlora_ref"))
        numbers = [key for key, value in theirs.items() if isinstance(value, float)]
        assert numbers and {key: ours[key] for key in numbers} == pytest.approx(
            {key: theirs[key] for key in numbers}, rel=1e-5
        )
        answers = [[row["resps"] for row in found[kind]["samples"][f"tlora_{name}"]] for kind in ("hf", "tlora_ref")]
        for hf, mine in zip(*answers, strict=True):
            assert flat(mine) == [pytest.approx(x, rel=1e-4) if isinstance(x, float) else x for x in flat(hf)]


def flat(values: Any) -> list[Any]:
    """The leaves of nested lists; numbers that are written as text as numbers."""
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in flat(value)]
    return [float(values)] if isinstance(values, int | float) and not isinstance(values, bool) else [str(values)]
