"""Make the rows of the second settings in `build/`: SST-2's sentences for MiniLM, GSM8K's questions for SmolLM2.

    python examples/studies/second-settings/prepare.py --sst2-train sst2_train.tsv --sst2-dev sst2_dev.tsv \
        --gsm8k-train gsm8k_train.jsonl --gsm8k-test gsm8k_test.jsonl

Rows are drawn by a fixed seed, the same for everyone who has the same files. Of GSM8K the short ones are taken, so
that a CPU can train on them. Nothing of it is shipped: SST-2 states no licence.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SEED = 42
SST2_ROWS = {"train": 2000, "valid": 200, "test": 400}
GSM8K_ROWS = {"train": 120, "valid": 4, "test": 20}
#: Of question and answer together.
GSM8K_CHARACTERS = 220
CLASSES = ("negative", "positive")
HERE = Path(__file__).resolve().parent


def sst2(path: Path) -> list[dict[str, str]]:
    """A row a sentence, each sentence once: the name of its class is the completion."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        found = {line["sentence"].strip(): CLASSES[int(line["label"])] for line in lines}
    return [{"prompt": sentence, "completion": label} for sentence, label in found.items() if sentence]


def gsm8k(path: Path) -> list[dict[str, str]]:
    """A row a question that is short together with its worked answer."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [{"prompt": f"{row['question']}\n", "completion": row["answer"]} for row in rows]
    return [pair for pair in pairs if len(pair["prompt"] + pair["completion"]) <= GSM8K_CHARACTERS]


def write(
    folder: Path, train: Sequence[dict[str, str]], test: Sequence[dict[str, str]], counts: dict[str, int]
) -> None:
    """Three splits: train and valid of the first rows, test of the second that are not among the first."""
    seen = {row["prompt"] for row in train}
    unseen = [row for row in test if row["prompt"] not in seen]
    rng = np.random.default_rng(SEED)
    first = rng.permutation(len(train))[: counts["train"] + counts["valid"]]
    second = rng.permutation(len(unseen))[: counts["test"]]
    chosen = {
        "train": [train[i] for i in first[: counts["train"]]],
        "valid": [train[i] for i in first[counts["train"] :]],
        "test": [unseen[i] for i in second],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in chosen.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    print(f"{folder}: {', '.join(f'{len(rows)} {split}' for split, rows in chosen.items())}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--sst2-train", "--sst2-dev", "--gsm8k-train", "--gsm8k-test"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "build", help="default: build beside this file")
    args = parser.parse_args()
    write(args.out / "sst2", sst2(args.sst2_train), sst2(args.sst2_dev), SST2_ROWS)
    write(args.out / "gsm8k", gsm8k(args.gsm8k_train), gsm8k(args.gsm8k_test), GSM8K_ROWS)


if __name__ == "__main__":
    main()
