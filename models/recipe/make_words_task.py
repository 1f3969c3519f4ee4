"""Make the small fine-tuning task "write the opening words" from OpenBookQA's sentences.

    python models/recipe/make_words_task.py --openbookqa-train openbookqa_train.json \
        --out models/tiny-math-llama/task-words

A question's stem with its right answer is a sentence, and a prompt; its first three words are the completion. There are
words where the calculator task has numbers, so that the model's inputs, and with them C and A, differ: what is
calibrated on one task can be tried on the other.

Kept are sentences of at most 120 characters and at least six words. Pre-training has read the sentences of all splits
(49 of 50), never the task. Writes `train.jsonl`, `valid.jsonl`, `test.jsonl`: rows of `prompt` and `completion`, chosen
by a fixed seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from make_task import MAX_PROMPT_CHARACTERS, ROWS, SEED
from prepare_corpus import openbookqa_documents

LEAST_WORDS = 6
OPENING_WORDS = 3


def words_rows(path: Path) -> list[dict[str, str]]:
    """Every usable (sentence, opening words) of an OpenBookQA file, in the file's order."""
    sentences = [text for text in openbookqa_documents(path) if is_usable(text)]
    return [{"prompt": f"{text}\n", "completion": " ".join(text.split()[:OPENING_WORDS])} for text in sentences]


def is_usable(sentence: str) -> bool:
    """One line, short enough, and longer than its opening."""
    return "\n" not in sentence and len(sentence) <= MAX_PROMPT_CHARACTERS and len(sentence.split()) >= LEAST_WORDS


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openbookqa-train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    rows = words_rows(args.openbookqa_train)
    order = iter(np.random.default_rng(SEED).permutation(len(rows)))
    args.out.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        chosen = [rows[next(order)] for _ in range(count)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (args.out / f"{split}.jsonl").write_text(text, encoding="utf-8")
    print(f"usable sentences: {len(rows)}; rows: {ROWS}")


if __name__ == "__main__":
    main()
