"""What the fuzz harness damages: for each kind of folder that the library reads, a sound one and what reads it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import tlora_ref as tr
from tests.families.make_tiny import MODELS, tiny_model
from tests.faults import adapters, runs
from tests.faults.subject import Subject, command, words
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import read_config
from tlora_ref.data import encode_prompt, encode_rows, load_dataset
from tlora_ref.errors import TLoRAError
from tlora_ref.tasks import load_task, task_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": "w3 w4", "completion": "w5"},
    {"instruction": "w1", "input": "w2", "output": "w3"},
    {"text": "w1 w2 w3"},
    {"input_ids": [4, 5, 6], "labels": [-100, 5, 6]},
    {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]},
    {"conversations": [{"from": "human", "value": "w1"}, {"from": "gpt", "value": "w2"}]},
    {"prompt": [{"role": "user", "content": "w1"}], "completion": [{"role": "assistant", "content": "w2"}]},
]


def model_folder(name: str) -> Subject:
    """A checkpoint of a family: loaded, and run on three tokens."""

    def use(folder: Path) -> None:
        model = tr.load_model(folder)
        model([[3, 4, 5]], **({"decoder_input_ids": [[0, 3]]} if "t5" in name else {}))

    return Subject(lambda folder: tr.save_model(tiny_model(name), folder), use, ("*.json", "*.safetensors"))


def sharded(folder: Path) -> None:
    """Two shards and their index."""
    from safetensors.numpy import load_file, save_file

    tr.save_model(tiny_llama(dtype="float32"), folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for part in range(2):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        mine = names[part::2]
        save_file({n: tensors[n] for n in mine}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )


def use_tokenizer(folder: Path) -> None:
    tokenizer = tr.load_tokenizer(folder)
    tokenizer.decode(tokenizer.encode("w1 w2 x"))
    rows = load_dataset(folder / "rows.jsonl")
    encode_rows(rows, tokenizer, max_length=64)
    encode_prompt(rows[-1], tokenizer)


def with_rows(folder: Path) -> None:
    words(folder)
    conversation = [
        {"role": r, "content": c} for r, c in (("user", "w1"), ("assistant", "w2"), ("user", "w3"), ("assistant", "w4"))
    ]
    (folder / "rows.jsonl").write_text(
        json.dumps({"prompt": "w1", "completion": "w2"}) + "\n" + json.dumps({"messages": conversation})
    )


def with_template_file(folder: Path) -> None:
    with_rows(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text(config.pop("chat_template"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def statistics(folder: Path) -> None:
    tr.calibrate(tiny_llama(), tiny_samples(2)).save(folder / "stats.safetensors")


def use_statistics(folder: Path) -> None:
    stats = tr.CalibrationStats.load(folder / "stats.safetensors")
    model = tiny_llama()
    tr.initialize(model, stats, tr.allocate(stats.sensitivity, model.shapes(), 2, 4.0))


def datasets(folder: Path) -> None:
    """The rows in every form of file."""
    words(folder)
    lines = [json.dumps(row) for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "list.json").write_text(json.dumps(ROWS))
    (folder / "wrapped.json").write_text(json.dumps({"data": ROWS[:2]}))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion"], ["w1 w2", "w3"], ["w4", "w5"]])


def use_datasets(folder: Path) -> None:
    tokenizer = tr.load_tokenizer(folder)
    for name in ("rows.jsonl", "list.json", "wrapped.json", "table.csv"):
        try:
            encode_rows(load_dataset(folder / name), tokenizer, max_length=64)
        except TLoRAError:  # the others are read all the same
            continue


def task(folder: Path) -> None:
    (folder / "task.yaml").write_text(
        "kind: understanding\nabout: a\nprompt: 'say {sentence}'\nresponse: '{choice}'\n"
        "choices: ['no', 'yes']\ngold: '{label}'\n"
    )
    rows = [{"sentence": "w1 w2", "label": 1}, {"sentence": "w3", "label": "no"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def use_task(folder: Path) -> None:
    task_rows(load_task(str(folder / "task.yaml")), folder / "rows.jsonl")


def golden(folder: Path) -> None:
    samples = tiny_samples(2)
    for name in ("golden", "candidate"):
        tr.trace(tiny_llama(), samples, folder / name, r_init=2, steps=1)


def run_config(folder: Path) -> None:
    tr.save_model(tiny_llama(), folder / "model")
    (folder / "run.yaml").write_text("rank: 4\nalpha: 8.0\ntokens: 16\nsamples: 2\ntarget: [q_proj, v_proj]\n")


SUBJECTS: dict[str, Subject] = {
    **{f"model-{name}": model_folder(name) for name in MODELS},
    "model-shards": Subject(sharded, lambda folder: tr.load_model(folder)([[3, 4, 5]]), ("*.json", "*.safetensors")),
    "plan": Subject(
        lambda folder: tr.save_model(tiny_llama(), folder), lambda f: read_config(f / "config.json"), ("config.json",)
    ),
    "tokenizer": Subject(with_rows, use_tokenizer, ("*.json",), weight=10),
    "template": Subject(with_template_file, use_tokenizer, ("*.jinja",), weight=2),
    **adapters.subjects(),
    **runs.subjects(),
    "statistics": Subject(statistics, use_statistics, weight=6),
    "datasets": Subject(datasets, use_datasets, ("rows.jsonl", "list.json", "wrapped.json", "table.csv"), weight=10),
    "task": Subject(task, use_task, weight=10),
    "golden": Subject(golden, lambda f: tr.compare(f / "golden", f / "candidate"), ("golden/*",)),
    "candidate": Subject(golden, lambda f: tr.compare(f / "golden", f / "candidate"), ("candidate/*",)),
    "report": Subject(golden, command("report", "{folder}/golden"), ("golden/*",)),
    "run-config": Subject(
        run_config, command("plan", "{folder}/model", "--config", "{folder}/run.yaml"), ("run.yaml",)
    ),
}
