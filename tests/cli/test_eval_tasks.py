"""`eval --task` on tiny models: the scores are counted by hand, the responses are the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.families.make_tiny import tiny_model
from tlora_ref.data import load_tokenizer
from tlora_ref.training import likelihoods
from tlora_ref.transformer import Model

WORDS = ["<pad>", "</s>", *(f"w{i}" for i in range(2, 31))]


def saved(folder: Path, name: str) -> tuple[Model, Any]:
    """A tiny model of a family in a folder, with a tokenizer of words that ends texts as T5's does."""
    tr.save_model(tiny_model(name), folder)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if name.startswith("t5"):
        backend.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    return tr.load_model(folder), load_tokenizer(folder)


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def own_response(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """What the model says greedily, by a loop over its logits alone."""
    if model.config.to_dict().get("is_encoder_decoder"):
        ids, made = [*tokenizer.encode(prompt), 1], [0]
        for _ in range(tokens):
            made.append(int(np.argmax(model(ids, decoder_input_ids=made).logits[-1])))
            if made[-1] == 1:
                break
        return str(tokenizer.decode(made[1:]))
    made = list(tokenizer.encode(prompt))
    start = len(made)
    for _ in range(tokens):
        made.append(int(np.argmax(model(made).logits[-1])))
        if made[-1] == 1:
            break
    return str(tokenizer.decode(made[start:]))


@pytest.mark.parametrize("name", ["llama", "t5", "t5-gated"])
def test_exact_matches_are_the_models_own_responses(name: str, tmp_path: Path, run: Run) -> None:
    model, tokenizer = saved(tmp_path / "model", name)
    said = own_response(model, tokenizer, "w5 w6 w7", 4)
    data = rows(
        tmp_path / "d.jsonl",
        {"prompt": "w5 w6 w7", "completion": said},
        {"prompt": "w5 w6 w7", "completion": f"{said} w3"},
    )
    status, out, _ = run("eval", tmp_path / "model", "--data", data, "--generate", "--max-new-tokens", 4, "--json")
    assert status == 0 and json.loads(out)["exact"] == 1


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_choices_by_likelihood_and_by_what_is_said(name: str, tmp_path: Path, run: Run) -> None:
    model, tokenizer = saved(tmp_path / "model", name)
    options = ["w8", "w9 w10", "w11"]
    task = tmp_path / "pick.yaml"
    task.write_text(f'kind: choice\nprompt: "{{q}}"\nresponse: "{{choice}}"\nchoices: {options}\ngold: "{{a}}"\n')
    questions = ["w5 w6", "w7 w7 w3", "w12", "w20 w21 w22"]
    sums, means, named = [], [], []
    for question in questions:
        ids = tokenizer.encode(question)
        scores = []
        for option in options:
            answer = [*tokenizer.encode(option), 1]
            if name == "t5":
                logits = model([*ids, 1], decoder_input_ids=[0, *answer[:-1]]).logits
            else:
                logits = model(ids + answer).logits[len(ids) - 1 : -1]
            log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            scores.append([float(log_p[i, token]) for i, token in enumerate(answer)])
        sums.append(int(np.argmax([sum(s) for s in scores])))
        means.append(int(np.argmax([np.mean(s) for s in scores])))
        said = own_response(model, tokenizer, question, 3).split()
        named.append(next((i for word in said for i, o in enumerate(options) if o == word), None))
    gold = [sums[0], (sums[1] + 1) % 3, sums[2], means[3]]
    data = rows(tmp_path / "d.jsonl", *({"q": q, "a": g} for q, g in zip(questions, gold, strict=True)))
    status, out, _ = run("eval", tmp_path / "model", "--data", data, "--task", task, "--max-new-tokens", 3, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["accuracy_likelihood"] == np.mean([s == g for s, g in zip(sums, gold, strict=True)])
    assert found["accuracy_likelihood_per_token"] == np.mean([m == g for m, g in zip(means, gold, strict=True)])
    assert found["accuracy"] == np.mean([n == g for n, g in zip(named, gold, strict=True)])


def test_a_classifier_is_scored_by_its_head(tmp_path: Path, run: Run) -> None:
    model, tokenizer = saved(tmp_path / "model", "bert")
    task = tmp_path / "mood.yaml"
    task.write_text('kind: understanding\nprompt: "{s}"\nresponse: "{choice}"\nchoices: ["no", "yes"]\ngold: "{l}"\n')
    texts = ["w5 w6", "w7", "w9 w9 w9"]
    likely = [int(np.argmax(model(tokenizer.encode(text)).logits)) for text in texts]
    labels = [likely[0], 1 - likely[1], likely[2]]
    data = rows(tmp_path / "d.jsonl", *({"s": s, "l": label} for s, label in zip(texts, labels, strict=True)))
    status, out, _ = run("eval", tmp_path / "model", "--data", data, "--task", task, "--json")
    assert status == 0 and json.loads(out)["accuracy"] == pytest.approx(2 / 3)
    status, _, _ = run(
        *("train", tmp_path / "model", "--data", data, "--task", task, "--out", tmp_path / "out"),
        *("--samples", 2, "--rank", 1, "--steps", 2, "--batch-size", 2),
    )
    assert status == 0


def test_numbers_and_files_for_judges(tmp_path: Path, run: Run) -> None:
    model, tokenizer = saved(tmp_path / "model", "llama")
    said = own_response(model, tokenizer, "Question: w5\nAnswer: ", 3)
    data = rows(tmp_path / "d.jsonl", {"question": "w5", "answer": "w3 #### 7"})
    status, out, _ = run(
        *("eval", tmp_path / "model", "--data", data, "--task", "gsm8k", "--max-new-tokens", 3, "--json"),
        *("--write", tmp_path / "said.jsonl"),
    )
    assert status == 0 and json.loads(out)["accuracy"] == 0.0
    (line,) = (tmp_path / "said.jsonl").read_text().splitlines()
    assert json.loads(line)["response"] == said and json.loads(line)["reference"] == "w3 #### 7"
    code = rows(tmp_path / "c.jsonl", {"task_id": "T/1", "prompt": "w5 w6", "canonical_solution": "w7"})
    status, _, _ = run(
        *("eval", tmp_path / "model", "--data", code, "--task", "humaneval", "--max-new-tokens", 3),
        *("--write", tmp_path / "samples.jsonl"),
    )
    assert status == 0
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {
        "task_id": "T/1",
        "completion": own_response(model, tokenizer, "w5 w6", 3),
    }


def test_what_makes_no_sense_is_refused(tmp_path: Path, run: Run) -> None:
    saved(tmp_path / "model", "llama")
    data = rows(tmp_path / "d.jsonl", {"prompt": "w5", "completion": "w6"})
    for arguments, said in (
        (("--task", "chat"), "--write FILE"),
        (("--write", tmp_path / "x.jsonl"), "name one"),
        (("--task", "gsm8k", "--template", "alpaca"), "leave --field and --template"),
        (("--task", "odd"), 'task "odd" is unknown'),
        (("--task", "gsm8k"), "needs the field 'question'"),
    ):
        status, _, err = run("eval", tmp_path / "model", "--data", data, *arguments)
        assert status == 2 and said in err


@pytest.mark.parity
def test_likelihoods_are_those_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, _ = saved(tmp_path / "model", "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64)
    ids, scored = [3, 4, 5, 6, 7], 2
    labels = [-100] * (len(ids) - scored) + ids[-scored:]
    ((log_p, tokens),) = likelihoods(model, [{"input_ids": ids, "labels": labels}])
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    expected = sum(float(logits[t - 1, ids[t]]) for t in range(len(ids) - scored, len(ids)))
    assert tokens == scored and log_p == pytest.approx(expected, rel=1e-5)
