"""Make the small fine-tuning task "write the calculator call" from GSM8K's worked answers.

    python models/recipe/make_task.py --gsm8k-train gsm8k_train.jsonl --gsm8k-test gsm8k_test.jsonl \
        --out models/tiny-math-llama/task

GSM8K's answers carry calculator annotations: "Natalia sold 48/2 = <<48/2=24>>24 clips in May." One such sentence
without its annotation is a prompt, what the annotation held is the completion ("48/2=24"). The model was pre-trained
without annotations, so it has never seen one; valid and test rows come from GSM8K's test split, of which it has seen
nothing.

Kept are sentences with one annotation, of at most 120 characters, in which every number of the annotation can be read.
Writes `train.jsonl`, `valid.jsonl`, `test.jsonl`: rows of `prompt` and `completion`, chosen by a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from prepare_corpus import ANNOTATION

ROWS = {"train": 600, "valid": 100, "test": 200}
SEED = 42
MAX_PROMPT_CHARACTERS = 120
MAX_COMPLETION_CHARACTERS = 16
NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
CALL = re.compile(r"[\d.]+(?:[-+*/][\d.]+)+=[\d.]+")


def calculator_rows(path: Path) -> list[dict[str, str]]:
    """Every usable (sentence, annotation) of a GSM8K file, each sentence once, in the file's order."""
    rows: dict[str, dict[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        for sentence in json.loads(line)["answer"].splitlines():
            calls = [found[2:-2] for found in ANNOTATION.findall(sentence)]
            prompt = ANNOTATION.sub("", sentence).strip()
            if len(calls) == 1 and is_usable(prompt, calls[0]):
                rows.setdefault(prompt, {"prompt": f"{prompt}\n", "completion": calls[0]})
    return list(rows.values())


def is_usable(prompt: str, call: str) -> bool:
    """Short enough, one plain calculation, and every number in it stands in the sentence."""
    if len(prompt) > MAX_PROMPT_CHARACTERS or len(call) > MAX_COMPLETION_CHARACTERS or not CALL.fullmatch(call):
        return False
    return set(NUMBER.findall(call)) <= set(NUMBER.findall(prompt.replace(",", "")))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k-train", type=Path, required=True)
    parser.add_argument("--gsm8k-test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    seen = calculator_rows(args.gsm8k_train)
    prompts = {row["prompt"] for row in seen}
    unseen = [row for row in calculator_rows(args.gsm8k_test) if row["prompt"] not in prompts]
    generator = np.random.default_rng(SEED)
    train = generator.permutation(len(seen))[: ROWS["train"]]
    held_out = generator.permutation(len(unseen))[: ROWS["valid"] + ROWS["test"]]
    chosen = {
        "train": [seen[i] for i in train],
        "valid": [unseen[i] for i in held_out[: ROWS["valid"]]],
        "test": [unseen[i] for i in held_out[ROWS["valid"] :]],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for split, rows in chosen.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
    print(f"usable sentences: {len(seen)} in train, {len(unseen)} in test; rows: {ROWS}")


if __name__ == "__main__":
    main()
