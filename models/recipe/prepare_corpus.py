"""Turn the raw GSM8K and OpenBookQA files into a tokenizer and two arrays of token ids.

    python models/recipe/prepare_corpus.py --gsm8k-train gsm8k_train.jsonl \
        --openbookqa-train openbookqa_train.json --out build/corpus

writes `tokenizer.json`, `tokenizer_config.json`, `train.npy`, `valid.npy` (uint16, documents joined) and `corpus.json`
(counts, SHA-256 of the inputs). Every 50th document is held out. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

#: The files that made the shipped model. Others work too, and are reported as different.
SHA256 = {
    "gsm8k_train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "openbookqa_train": "a1e094eeea01f70c0baa880f37497b26700ae99b243927b9c529984de9b1fe90",
}
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
VOCAB_SIZE = 1024
CONTEXT = 256
HOLD_OUT_EVERY = 50

ANNOTATION = re.compile(r"<<[^<>]*>>")
QUESTION = re.compile(
    r"Please choose the correct answer to the question: (?P<stem>.*?)\s*"
    r"Answer1: (?P<answer1>.*?) Answer2: (?P<answer2>.*?) Answer3: (?P<answer3>.*?) Answer4: (?P<answer4>.*?)\s*"
    r"Answer format:",
    flags=re.DOTALL,
)


def gsm8k_documents(path: Path) -> list[str]:
    """Question and worked answer, the calculator annotations (`<<48/2=24>>`) removed."""
    documents = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        documents.append(f"{row['question'].strip()}\n{ANNOTATION.sub('', row['answer']).strip()}")
    return documents


def openbookqa_documents(path: Path) -> list[str]:
    """Question stem and its correct answer as one sentence (or question and answer), each once."""
    documents: dict[str, None] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        found = QUESTION.match(row["instruction"])
        if found is None:
            raise ValueError(f"{path}: a row does not read as an OpenBookQA question: {row['instruction'][:80]!r}")
        sentence = f"{found['stem'].strip()} {found[row['answer']].strip()}"
        documents[sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."] = None
    return list(documents)


def train_tokenizer(documents: list[str]) -> Tokenizer:
    """A byte-level BPE of 1024 entries in which every digit is its own token, so that numbers can be copied."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def token_stream(tokenizer: Tokenizer, documents: list[str]) -> np.ndarray:
    """`<|bos|> document <|eos|>`, one after the other, as uint16."""
    eos = tokenizer.token_to_id(EOS)
    ids = [token for encoding in tokenizer.encode_batch(documents) for token in (*encoding.ids, eos)]
    return np.asarray(ids, dtype=np.uint16)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The two files from which transformers, and this library, load a tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def report_unexpected(name: str, path: Path) -> str:
    """The file's SHA-256; a warning on stderr where it is not the one that made the shipped model."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[name]:
        print(f"note: {path} is not the {name} of the shipped model: the result will differ", file=sys.stderr)
    return digest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k-train", type=Path, required=True)
    parser.add_argument("--openbookqa-train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    digests = {name: report_unexpected(name, getattr(args, name)) for name in SHA256}
    documents = gsm8k_documents(args.gsm8k_train) + openbookqa_documents(args.openbookqa_train)
    valid = documents[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
    train = [text for index, text in enumerate(documents, start=1) if index % HOLD_OUT_EVERY]
    parts = {"train": train, "valid": valid}
    tokenizer = train_tokenizer(train)
    streams = {name: token_stream(tokenizer, texts) for name, texts in parts.items()}

    args.out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, args.out)
    for name, stream in streams.items():
        np.save(args.out / f"{name}.npy", stream)
    summary = {
        "sha256": digests,
        "documents": {"train": len(train), "valid": len(valid)},
        "bytes": {
            "train": sum(len(text.encode()) for text in train),
            "valid": sum(len(text.encode()) for text in valid),
        },
        "tokens": {name: len(stream) for name, stream in streams.items()},
    }
    (args.out / "corpus.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
