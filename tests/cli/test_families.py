"""Commands on models that are no plain decoder, or hold less than a row wants: heads, contexts, other models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.cli.test_eval_tasks import rows, saved
from tests.families.encoders import BARE
from tests.families.make_tiny import tiny_model
from tlora_ref.transformer import family

MOOD = 'kind: understanding\nprompt: "{s}"\nresponse: "{choice}"\nchoices: ["no", "yes"]\ngold: "{l}"\n'
SHORT = ("--samples", 2, "--rank", 1, "--steps", 1, "--batch-size", 2, "--warmup-ratio", 0)


def mood(folder: Path) -> tuple[object, ...]:
    """A task of two classes, and its rows."""
    (folder / "mood.yaml").write_text(MOOD)
    data = rows(folder / "d.jsonl", *({"s": f"w{i} w{i + 3}", "l": i % 2} for i in range(5, 11)))
    return "--data", data, "--task", folder / "mood.yaml"


@pytest.mark.parametrize(
    ("name", "modules"), [("bert", ["classifier"]), ("distilbert", ["pre_classifier", "classifier"])]
)
def test_a_classifier_s_head_goes_along_and_is_trained_where_asked(
    name: str, modules: list[str], tmp_path: Path, run: Run
) -> None:
    model, _ = saved(tmp_path / "model", name)
    head = {tensor for tensor in model.tensors if tensor.split(".")[0] in modules}
    common = ("train", tmp_path / "model", *mood(tmp_path), *SHORT)
    status, _, said = run(*common, "--out", tmp_path / "a")
    also = [word for module in modules for word in ("--also", module)]
    assert status == 0 and all(f"--also {module}" in said for module in modules)
    kept = tr.load_peft(tmp_path / "a" / "adapter")
    assert kept.task_type == "SEQ_CLS" and set(kept.saved) == kept.untrained == head
    assert all(np.array_equal(x, model.tensors[tensor]) for tensor, x in kept.saved.items())
    status, _, said = run(*common, "--out", tmp_path / "b", *also)
    trained = tr.load_peft(tmp_path / "b" / "adapter")
    assert status == 0 and "--also" not in said and set(trained.saved) == head and not trained.untrained
    assert all(not np.array_equal(x, model.tensors[tensor]) for tensor, x in trained.saved.items())
    more = sum(model.tensors[tensor].size for tensor in head)
    assert trained.trainable_parameters() == kept.trainable_parameters() + more


def test_what_is_wrong_is_said_before_an_earlier_run_is_cleared(tmp_path: Path, run: Run) -> None:
    saved(tmp_path / "model", "bert")
    saved(tmp_path / "other", "llama")
    common = ("train", tmp_path / "model", *mood(tmp_path), "--out", tmp_path / "a")
    assert run(*common, *SHORT)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    status, _, error = run(*common, *SHORT, "--overwrite", "--also", "clasifier")
    assert status == 2 and 'no tensor or module "clasifier"' in error and "classifier.weight" in error
    text = rows(tmp_path / "t.jsonl", *[{"prompt": "w5", "completion": "w6"}] * 2)
    assert run("train", tmp_path / "other", "--data", text, "--out", tmp_path / "o", *SHORT)[0] == 0
    given = ("--adapter", tmp_path / "o" / "adapter", "--steps", 2)
    status, _, error = run(*common, *given, "--overwrite")
    assert status == 2 and "which is no linear module" in error
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


def test_classes_that_a_head_finds_can_be_kept(tmp_path: Path, run: Run) -> None:
    model, tokenizer = saved(tmp_path / "model", "bert")
    status, out, _ = run("eval", tmp_path / "model", *mood(tmp_path), "--write", tmp_path / "w.jsonl")
    assert status == 0 and "6 scored rows" in out and "nats a row" in out
    lines = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text().splitlines()]
    likely = [int(np.argmax(model(tokenizer.encode(f"w{i} w{i + 3}")).logits)) for i in range(5, 11)]
    assert [line["response"] for line in lines] == [["no", "yes"][i] for i in likely]
    assert [line["reference"] for line in lines] == ["yes", "no"] * 3


def test_a_bare_encoder_is_told_to_get_a_head(tmp_path: Path, run: Run) -> None:
    saved(tmp_path / "model", "bert")
    values = json.loads((tmp_path / "model" / "config.json").read_text()) | {"architectures": ["BertModel"]}
    config, kind = family("bert", ["BertModel"])
    bare = kind(config.from_dict(values), {})
    tensors = {name.removeprefix("bert."): x for name, x in tiny_model("bert").tensors.items()}
    bare.tensors = {name: tensors[name] for name in kind.tensor_shapes(bare.config)}
    tr.save_model(bare, tmp_path / "bare", source=tmp_path / "model")
    data = rows(tmp_path / "t.jsonl", {"prompt": "w5", "completion": "w6"})
    for command in ("init", "train", "eval"):
        out = () if command == "eval" else ("--out", tmp_path / "o")
        status, _, error = run(command, tmp_path / "bare", "--data", data, *out)
        assert status == 2 and "bare encoder" in error and "--labels a,b" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("name", "room"), [("gpt2", 24), ("roberta", 62), ("llama", None)])
def test_a_row_beyond_the_context_is_left_out(name: str, room: int | None, tmp_path: Path, run: Run) -> None:
    """gpt2 calls its context n_positions; roberta's positions begin after pad_token_id, which is 1."""
    model, _ = saved(tmp_path / "model", name)
    context = room or model.config.max_position_embeddings
    assert model.context == context
    words = " ".join(["w5"] * (context - 1))
    if name == "roberta":
        (tmp_path / "mood.yaml").write_text(MOOD)
        texts = [{"s": text, "l": 1} for text in (f"{words} w6", f"{words} w6 w7")]
        source = ("--data", rows(tmp_path / "d.jsonl", *texts), "--task", tmp_path / "mood.yaml")
    else:  # and an end-of-sequence token
        texts = [{"text": text} for text in (words, f"{words} w6")]
        source = ("--data", rows(tmp_path / "d.jsonl", *texts))
    status, out, error = run("eval", tmp_path / "model", *source, "--json")
    assert status == 0 and json.loads(out)["samples"] == 1 and json.loads(out)["too_long"] == 1
    assert f"1 row(s) left out: longer than {context} tokens" in error


def test_an_answer_ends_with_the_context(tmp_path: Path, run: Run) -> None:
    """A prompt of 22 tokens leaves gpt2, which has 24 positions, two of the nine it was asked for."""
    model, tokenizer = saved(tmp_path / "model", "gpt2")
    prompt = " ".join(f"w{2 + i % 29}" for i in range(22))
    ids = tokenizer.encode(prompt)
    made = [int(np.argmax(model(ids).logits[-1]))]
    made.append(int(np.argmax(model([*ids, made[0]]).logits[-1])))
    assert 1 not in made  # the end-of-sequence token
    data = rows(
        tmp_path / "d.jsonl",
        {"prompt": prompt, "completion": tokenizer.decode(made[:1])},
        {
            "prompt": prompt,
            "completion": tokenizer.decode(made),
        },  # with its end too long, but the prompt can be answered
        {"prompt": f"{prompt} w5 w6", "completion": "w5"},
    )
    status, out, _ = run("eval", tmp_path / "model", "--data", data, "--generate", "--max-new-tokens", 9, "--json")
    found = json.loads(out)
    assert status == 0 and (found["samples"], found["too_long"], found["rows"], found["exact"]) == (1, 2, 2, 1)


def test_statistics_and_adapters_of_other_weights(folder: Path, run: Run) -> None:
    status, _, _ = run(
        *("init", folder / "model", "--data", folder / "data", "--samples", 2, "--rank", 2),
        *("--out", folder / "a", "--save-stats", folder / "s"),
    )
    assert status == 0
    other = tr.load_model(folder / "model")
    name = "model.layers.1.self_attn.v_proj.weight"
    other.tensors[name] = other.tensors[name] * 1.01
    tr.save_model(other, folder / "other", source=folder / "model")
    status, _, error = run("init", folder / "other", "--stats", folder / "s", "--rank", 2, "--out", folder / "b")
    assert status == 2 and "another model's weights" in error and not (folder / "b").exists()
    for model, warned in (("model", False), ("other", True)):
        status, _, error = run("eval", folder / model, "--data", folder / "data", "--adapter", folder / "a")
        assert status == 0 and ("made for other weights" in error) is warned
    assert tr.load_model(folder / "model", "float32").digest() == tr.load_model(folder / "model").digest()


def test_a_loss_that_is_not_finite_is_an_error(folder: Path, run: Run) -> None:
    model = tr.load_model(folder / "model")
    model.tensors["lm_head.weight"] = model.tensors["lm_head.weight"] * 3e38
    tr.save_model(model, folder / "huge", source=folder / "model")
    status, _, error = run("eval", folder / "huge", "--data", folder / "data", "--dtype", "float32")
    assert status == 2 and "not finite" in error


PAIRLESS: list[dict[str, object]] = [
    {"prompt": "w3 \ud83d w4", "completion": "w5"},
    {"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "w5"}]},
    {"text": "\udc00"},
]


@pytest.mark.parametrize("row", PAIRLESS)
def test_half_of_a_surrogate_pair_is_named_with_its_row(row: dict[str, object], folder: Path, run: Run) -> None:
    data = rows(folder / "bad.jsonl", {"text": "w3 w4"}, row) if "text" in row else rows(folder / "bad.jsonl", row)
    for command in (("eval",), ("train", "--out", folder / "o")):
        status, _, error = run(command[0], folder / "model", "--data", data, *command[1:])
        assert status == 2 and "half of a surrogate pair" in error and f"line {2 if 'text' in row else 1}" in error
    status, _, error = run("generate", folder / "model", "--prompt", "bad \udcff")
    assert status == 2 and "the prompt: holds half of a surrogate pair" in error


def test_a_row_without_a_token_is_left_out(tmp_path: Path, run: Run) -> None:
    saved(tmp_path / "model", "bert")
    task, data = mood(tmp_path)[2:], rows(tmp_path / "e.jsonl", {"s": "w5", "l": 1}, {"s": " ", "l": 1})
    status, out, error = run("eval", tmp_path / "model", "--data", data, *task, "--json")
    found = json.loads(out)
    assert status == 0 and found["samples"] == found["rows"] == 1 and "no labelled token" in error


def bare(folder: Path, kind: str, architecture: str) -> Path:
    """A tiny encoder without a classification head, of that architecture, with its tokenizer."""
    saved(folder, kind)
    values = json.loads((folder / "config.json").read_text())
    values = {k: v for k, v in values.items() if k not in ("id2label", "label2id", "problem_type")}
    (folder / "config.json").write_text(json.dumps({**values, "architectures": [architecture]}))
    tensors = load_file(folder / "model.safetensors")
    heads = ("classifier.", "pre_classifier.")
    save_file({n: x for n, x in tensors.items() if not n.startswith(heads)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("bert", "BertModel"),
        ("bert", "BertForMaskedLM"),
        ("roberta", "RobertaForMaskedLM"),
        ("distilbert", "DistilBertModel"),
    ],
)
def test_a_bare_encoder_gets_a_head_of_the_task_s_options(
    kind: str, architecture: str, tmp_path: Path, run: Run
) -> None:
    model = bare(tmp_path / "model", kind, architecture)
    common = ("train", model, *mood(tmp_path), *SHORT)
    status, _, said = run(*common, "--out", tmp_path / "a", "--also", "classifier")
    assert status == 0 and "a fresh head for no, yes, trained beside the adapter: classifier" in _
    adapter = tr.load_peft(tmp_path / "a" / "adapter")
    assert adapter.labels == ("no", "yes") and not adapter.untrained and adapter.task_type == "SEQ_CLS"
    start = tr.load_peft(tmp_path / "a" / "initial_adapter")
    assert all(not np.array_equal(x, start.saved[name]) for name, x in adapter.saved.items() if "bias" in name)
    assert "its encoder is read, and its head (none in the file) is left out" in said or architecture == BARE[kind]
    # The same run, by --labels: to the bit.
    status, _, _ = run(*common, "--out", tmp_path / "b", "--labels", "no, yes")
    again = tr.load_peft(tmp_path / "b" / "adapter")
    assert status == 0 and all(np.array_equal(x, again.saved[name]) for name, x in adapter.saved.items())
    status, out, _ = run("eval", model, *mood(tmp_path), "--adapter", tmp_path / "a" / "adapter")
    assert status == 0 and "accuracy" in out
    status, _, _ = run(
        "merge", model, "--adapter", tmp_path / "a" / "adapter", "--out", tmp_path / "m", "--dtype-out", "float64"
    )
    merged, adapted = tr.load_model(tmp_path / "m"), tr.load_adapted(model, tmp_path / "a" / "adapter")[0]
    assert status == 0 and merged.labels == ("no", "yes")
    np.testing.assert_allclose(merged([4, 5, 6]).logits, adapted([4, 5, 6]).logits, rtol=0, atol=1e-12)
    status, _, error = run("eval", model, *mood(tmp_path))
    assert status == 2 and "bare encoder" in error


def test_labels_that_suit_no_model_are_refused(tmp_path: Path, run: Run) -> None:
    model = bare(tmp_path / "model", "bert", "BertModel")
    saved(tmp_path / "classifier", "bert")
    saved(tmp_path / "llama", "llama")
    for folder, labels, said in (
        (model, "one", "two or more different names"),
        (model, "a,a", "two or more different names"),
        (model, "a,,b", "two or more different names"),
        (tmp_path / "classifier", "a,b,c", "is a classifier of"),
        (tmp_path / "llama", "a,b", "is no encoder"),
    ):
        status, _, error = run("train", folder, *mood(tmp_path), *SHORT, "--out", tmp_path / "o", "--labels", labels)
        assert status == 2 and said in error
    assert not (tmp_path / "o").exists()
