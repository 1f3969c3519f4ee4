"""`preview`: what it shows is what `train` trains on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run


def written(folder: Path, *rows: dict[str, object]) -> Path:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def with_end(folder: Path) -> None:
    """The tokenizer's end token is w30."""
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w30"}), encoding="utf-8")


def test_a_row_its_scored_part_its_seam_and_its_end(folder: Path, run: Run) -> None:
    with_end(folder)
    data = written(
        folder,
        {"prompt": "w3 w4 ", "completion": "w5 w6"},
        {"prompt": "w1", "completion": " "},
        {"prompt": "w1 " * 9, "completion": "w2"},
    )
    status, said, error = run("preview", folder / "model", "--data", data, "--max-length", 6)
    assert status == 0
    assert said.splitlines() == [
        f"{data}, line 1: 5 tokens, 3 scored: used",
        "  w3 w4[[ w5 w6 w30]]",
        "    seam: 'w3' ' w4' | ' w5' ' w6' ' w30'",
        "    ends with ' w30' (token 30)",
        f"{data}, line 3: 11 tokens, 2 scored: left out: longer than 6 tokens",
        "  w1 w1 w1 w1 w1 w1 w1 w1 w1[[ w2 w30]]",
        "    seam: ' w1' ' w1' ' w1' | ' w2' ' w30'",
        "    ends with ' w30' (token 30)",
        f"{data}, line 2: left out: its response is empty",
        "1 of 3 rows are used",
        "tokens a row: 5 to 5, median 5; 3 of 5 are scored",
    ]
    assert "1 row(s) left out: longer than 6 tokens" in error and "no labelled token" in error


def test_a_character_of_several_tokens_in_the_seam(tmp_path: Path, run: Run) -> None:
    data = written(tmp_path, {"prompt": "3 €", "completion": "你好"})  # the tokenizer knows their bytes alone
    _, said, _ = run("preview", tr.shipped_model(), "--data", data)
    assert "    seam: … … '€' | … … '你'\n" in said


def test_a_row_without_an_end_token(folder: Path, run: Run) -> None:
    _, said, error = run("preview", folder / "model", "--data", written(folder, {"prompt": "w3", "completion": "w4"}))
    assert "a response has no end token" in said and "does not learn to stop" in error


@pytest.mark.parametrize(
    ("more", "shape"),
    [((), (3, 11)), (("--group-by-length",), (3, 11)), (("--packing", "--max-length", "64"), (1, 25))],
    ids=["shuffled", "grouped", "packed"],
)
def test_the_first_batch_is_that_of_training(folder: Path, run: Run, more: tuple, shape: tuple[int, int]) -> None:
    common = (folder / "model", "--data", folder / "data", "--batch-size", 3, "--seed", 7, "--json", *more)
    found = json.loads(run("preview", *common, "--forward")[1])["forward"]
    out = ("--out", folder / "run", "--steps", 2, "--samples", 2, "--rank", 2)
    assert run("train", *common, *out)[0] == 0
    first = json.loads((folder / "run" / "history.jsonl").read_text().splitlines()[0])
    assert found["loss"] == pytest.approx(first["loss"], rel=1e-6) and found["tokens"] == first["tokens"]
    assert found["uniform"] == pytest.approx(math.log(31)) and (found["rows"], found["longest"]) == shape


def test_rows_of_like_length_make_another_first_batch(folder: Path, run: Run) -> None:
    words = ("preview", folder / "model", "--data", folder / "data", "--batch-size", 3, "--seed", 7)
    plain, grouped = (run(*words, "--forward", *more)[1] for more in ((), ("--group-by-length",)))
    assert plain.splitlines()[-1] != grouped.splitlines()[-1]
    status, _, error = run(*words, "--group-by-length")
    assert status == 0 and "--group-by-length" in error and "no batch is computed without --forward" in error


def test_what_is_said_to_be_scored_is_what_training_scores(folder: Path) -> None:
    source = tr.DataSource(folder / "data")
    rows = source.rows("train")
    seen = tr.preview(source, rows, tr.weightless_model(folder / "model"), None, show=99)
    samples, _ = source.encoded(rows, tr.load_model(folder / "model"), None)
    assert seen.samples == samples and len(seen.rows) == len(samples)
    for row, sample in zip(seen.rows, samples, strict=True):
        assert [t.id for t in row.tokens] == sample["input_ids"]
        assert [t.id for t in row.tokens if t.scored] == [i for i in sample["labels"] if i != -100]


@pytest.mark.parametrize("limit", [6, 7, 12, 30, 89, 90, 91])
@pytest.mark.parametrize("seam", [0, 1, 20, 45, 88, 89])
def test_an_excerpt_leaves_out_what_it_says(limit: int, seam: int) -> None:
    from tlora_ref.pipeline.preview import ShownToken

    tokens = tuple(ShownToken(i, str(i), i >= seam) for i in range(90))
    parts = tr.RowPreview("here", "used", tokens).excerpt(limit)
    at = 0
    for part in parts:
        assert part == tokens[at] if isinstance(part, ShownToken) else part > 0
        at += 1 if isinstance(part, ShownToken) else part
    kept = [part for part in parts if isinstance(part, ShownToken)]
    assert at == 90 and len(kept) <= limit and {tokens[0], tokens[-1], tokens[seam]} <= set(kept)


def test_control_characters_are_shown_and_not_sent(folder: Path, run: Run) -> None:
    data = written(folder, {"text": "w1 \x1b[31mred w2"})
    status, said, _ = run("preview", folder / "model", "--data", data)  # `run` holds that no escape comes through
    assert status == 0 and "w1[[ w0 w2]]" in said


@pytest.mark.parametrize(
    ("rows", "match"),
    [([{"messages": [{"role": "user", "content": "w1"}]}], "no message is the assistant's"), ([{"a": 1}], "no known")],
)
def test_what_training_refuses(folder: Path, run: Run, rows: list[dict[str, object]], match: str) -> None:
    status, said, error = run("preview", folder / "model", "--data", written(folder, *rows))
    assert status == 2 and match in error and said == ""


def test_rows_that_are_too_long_are_cut_or_used_in_parts(folder: Path, run: Run) -> None:
    (folder / "long.jsonl").write_text('{"text": "w1 w2 w3 w4 w5 w6 w7"}\n{"text": "w1 w2"}\n')
    common = (folder / "model", "--data", folder / "long.jsonl", "--max-length", 4)
    status, said, _ = run("preview", *common)
    assert status == 0 and "left out: longer than 4 tokens" in said and "1 of 2 rows are used\n" in said
    status, said, error = run("preview", *common, "--too-long", "truncate")
    assert status == 0 and "cut to 4 tokens" in said and "2 row(s) without a scored end token" in error  # it has none
    status, said, error = run("preview", *common, "--too-long", "chunk")
    assert status == 0 and "used in parts of at most 4 tokens: 2" in said
    assert "2 of 2 rows are used, as 3 samples" in said and "cut into parts" in error
    status, said, _ = run("eval", *common, "--too-long", "chunk")
    assert status == 0 and "2 of 2 rows in 3 parts, 7 scored tokens" in said
    making = ("--out", folder / "a", "--samples", 3, "--steps", 2, "--batch-size", 2)
    status, said, _ = run("train", *common, *making, "--too-long", "chunk")
    assert status == 0 and "on 3 samples" in said
    status, _, error = run("preview", *common, "--too-long", "wrap")
    assert status == 2 and "did you mean chunk" in error
