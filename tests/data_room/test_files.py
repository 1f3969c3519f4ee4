"""Files of data as people have them: every form gives the same rows, and what is damaged is named."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data_room.test_data import word_tokenizer
from tlora_ref.data import dataset_file, encode_rows, file_sha256, load_dataset
from tlora_ref.errors import DataError

ROWS = [{"prompt": "hello ", "completion": "world, again"}, {"prompt": "how\n", "completion": 'are "you" é'}]
LINES = "\n".join(map(json.dumps, ROWS))


def table(delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "completion"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    out = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


FORMS: dict[str, Callable[[], str | bytes]] = {
    "a.jsonl": lambda: LINES,
    "crlf.jsonl": lambda: LINES.replace("\n", "\r\n"),
    "cr.jsonl": lambda: LINES.replace("\n", "\r"),
    "bom.jsonl": lambda: "\ufeff" + LINES,
    "blank-lines.jsonl": lambda: "\n\n" + LINES.replace("\n", "\n  \n\n") + "\n\n",
    "pretty.jsonl": lambda: "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "list.jsonl": lambda: json.dumps(ROWS),
    "pretty-list.jsonl": lambda: json.dumps(ROWS, indent=2),
    "a.json": lambda: json.dumps(ROWS),
    "bom.json": lambda: "\ufeff" + json.dumps(ROWS, indent=1),
    "lines.json": lambda: LINES,
    "pretty-lines.json": lambda: "\n".join(json.dumps(row, indent=1) for row in ROWS),
    "data.json": lambda: json.dumps({"data": ROWS}),
    "named.json": lambda: json.dumps({"version": "1.0", "examples": ROWS}),
    "columns.json": lambda: json.dumps({name: [row[name] for row in ROWS] for name in ("prompt", "completion")}),
    "a.jsonl.gz": lambda: gzip.compress(LINES.encode()),
    "a.json.gz": lambda: gzip.compress(json.dumps(ROWS).encode()),
    "a.csv": table,
    "bom.csv": lambda: "\ufeff" + table(),
    "a.tsv": lambda: table("\t"),
    "semicolons.csv": lambda: table(";"),
    "bars.csv": lambda: table("|"),
    "tabs.csv": lambda: table("\t"),
    "excel.csv": lambda: "sep=;\r\n" + table(";"),
    "excel-unicode.csv": lambda: table("\t").encode("utf-16"),
    "blanks.csv": lambda: table().replace("prompt,completion", "prompt , completion"),
    "big-endian.jsonl": lambda: b"\xfe\xff" + LINES.encode("utf-16-be"),
    "pandas.json": lambda: json.dumps({k: {str(i): row[k] for i, row in enumerate(ROWS)} for k in ROWS[0]}),
    "pandas-index.json": lambda: json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "a.csv.gz": lambda: gzip.compress(table().encode()),
    "a.parquet": lambda: parquet(ROWS),
    "a.ndjson": lambda: LINES,
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    rows = load_dataset(write(tmp_path / name, FORMS[name]()))
    assert [dict(row.values) for row in rows] == ROWS
    assert len({row.where for row in rows}) == 2 and all(str(tmp_path / name) in row.where for row in rows)


@pytest.mark.parametrize(
    "row",
    [
        {"input_ids": [1, 2], "labels": [1, 2]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"prompt": "a", "completion": "b"},
        {"text": "a", "tags": ["x", "y"]},
    ],
)
def test_one_row_is_one_row_in_any_form(row: dict[str, Any], tmp_path: Path) -> None:
    """A row of lists is not taken for a table of columns, nor for a list under a name."""
    for name, text in (("a.json", json.dumps(row)), ("b.json", json.dumps([row])), ("c.jsonl", json.dumps(row))):
        (found,) = load_dataset(write(tmp_path / name, text))
        assert found.form == {"input_ids": "tokens", "text": "text"}.get(next(iter(row)), found.form)
    if "tags" not in row:
        (found,) = load_dataset(write(tmp_path / "d.parquet", parquet([row])))
        assert dict(found.values) == dict(load_dataset(tmp_path / "a.json")[0].values)


def test_lists_in_cells_of_csv_are_json(tmp_path: Path) -> None:
    text = 'input_ids,labels\n"[1, 2]","[-100, 2]"\n"[3]",[3]\n'
    assert [dict(row.values) for row in load_dataset(write(tmp_path / "t.csv", text))] == [
        {"input_ids": [1, 2], "labels": [-100, 2]},
        {"input_ids": [3], "labels": [3]},
    ]
    said = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).replace('"', '""')
    (row,) = load_dataset(write(tmp_path / "m.csv", f'messages\n"{said}"\n'))
    assert [m["content"] for m in row.values["messages"]] == ["a", "b"]


def test_a_split_in_any_form(tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv", "a.jsonl.gz", "a.json.gz", "a.parquet"):
        split = tmp_path / name
        split.mkdir()
        file = write(split / f"valid{name[1:]}", FORMS[name]())
        assert dataset_file(split, "valid") == file and len(load_dataset(split, "valid")) == 2
    published = tmp_path / "published"
    published.mkdir()
    write(published / "train-00000-of-00001.parquet", FORMS["a.parquet"]())
    assert len(load_dataset(published)) == 2
    write(published / "valid-00000-of-00002.parquet", FORMS["a.parquet"]())
    with pytest.raises(DataError, match=r"valid-00001-of-00002.parquet: this shard is missing"):
        load_dataset(published, "valid")
    write(published / "valid-00001-of-00002.parquet", parquet(ROWS[:1]))
    name = dataset_file(published, "valid")
    assert name.name == "valid-*-of-00002.parquet"
    assert [row.values["prompt"] for row in load_dataset(published, "valid")] == ["hello ", "how\n", "hello "]
    parts = [(published / f"valid-0000{i}-of-00002.parquet").read_bytes() for i in (0, 1)]
    assert file_sha256(name) == hashlib.sha256(b"".join(parts)).hexdigest()
    assert len(load_dataset(published / "valid-00001-of-00002.parquet")) == 1
    with pytest.raises(DataError, match=r'no split "test" in it: there is train and valid$'):
        load_dataset(published, "test")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"prompt": "a", "prompt": "b", "completion": "c"}', "line 1.*'prompt' is there twice"),
        ("a.jsonl", LINES + "\n{", "line 3: not valid JSON"),
        ("a.jsonl", "[" * 100_000, "nested too deep"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.json", '[{"prompt":"a","completion":"b"},]', "not valid JSON"),
        ("a.json", "3", "expected a JSON list"),
        ("a.json", "{}", "expected a JSON list"),
        ("a.json", '{"a": [1], "b": [1, 2]}', "expected a JSON list"),
        ("a.json", '{"prompt": ["a", "b"], "completion": ["c"]}', "expected a JSON list"),
        ("a.json", "", "holds no rows"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "prompt,completion\n", "holds no rows"),
        ("a.csv", "prompt,prompt\na,b\n", "two columns have one name"),
        ("a.csv", "prompt,completion\na,b,c\n", "line 2: 3 cells"),
        ("a.csv", "prompt,completion\na\n", "line 2: 1 cells"),
        ("a.csv", 'prompt,completion\na,"b\n', "line 2: not valid CSV"),
        ("a.csv", b"prompt,completion\na,\xe9\n", "not UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "cannot be read"),
        ("a.json.gz", LINES.encode(), "cannot be read"),
        ("a.txt", "hello world", "data are read from .jsonl, .json, .csv"),
        ("a.jsonl.zst", b"(\xb5/\xfdxx", "not UTF-8.*data are read from"),
        ("a.xlsx", b"PK\x03\x04\xff", "data are read from"),
        ("a.jsonl", LINES.encode("utf-16-le"), "not UTF-8 text|not valid JSON"),
        ("a.jsonl", LINES.encode("utf-16")[:-1], "not UTF-16-[LB]E text .*save it as UTF-8"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "not UTF-8"),
        ("a.jsonl", '{"text": NaN}', 'field "text" is float'),
        ("a.jsonl", '{"input_ids": [NaN], "labels": [1]}', "list of integers"),
        ("a.jsonl", '{"input_ids": [1e400], "labels": [1]}', "list of integers"),
        ("a.jsonl", '{"input_ids": [1], "labels": Infinity}', "list of integers"),
        ("a.jsonl", '{"prompt": 3, "completion": 4}', 'field "prompt" is int, expected a string: write text in quotes'),
        ("a.jsonl", '{"prompt": null, "completion": "b"}', 'field "prompt" is null'),
        ("a.jsonl", '{"prompt": {"a": 1}, "completion": "b"}', 'field "prompt" is dict'),
    ],
)
def test_what_is_damaged_is_named(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=said) as error:
        load_dataset(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"PAR1xx", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_parquet_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    test_what_is_damaged_is_named("a.parquet", content, "not a Parquet file", tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'tlora-ref\[parquet\]'"):
        load_dataset(write(tmp_path / "a.parquet", b""))


@pytest.mark.parametrize("empty", ["", " ", " \n\t", None])
@pytest.mark.parametrize(
    ("full", "field"),
    [
        ({"prompt": "Q", "completion": "one"}, "completion"),
        ({"instruction": "Q", "input": "", "output": "one"}, "output"),
        ({"text": "one"}, "text"),
    ],
)
def test_an_empty_response_is_left_out_and_counted(
    full: dict[str, Any], field: str, empty: str | None, tmp_path: Path
) -> None:
    rows = [full, {**full, field: empty}, full]
    samples, report = encode_rows(
        load_dataset(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))), word_tokenizer()
    )
    assert len(samples) == report.samples == 2 and report.unlabelled == [f"{tmp_path / 'a.jsonl'}, line 2"]
    assert "1 row(s) left out: no labelled token" in report.lines()[0]


def test_an_absent_input_is_an_empty_one(tmp_path: Path) -> None:
    forms = ['{"instruction": "Q", "input": null, "output": "one"}', '{"instruction": "Q", "output": "one"}']
    forms.append('{"instruction": "Q", "input": "", "output": "one"}')
    samples, _ = encode_rows(load_dataset(write(tmp_path / "a.jsonl", "\n".join(forms))), word_tokenizer())
    assert samples[0] == samples[1] == samples[2]


@pytest.mark.parametrize("before", ["", "sep=,\n"])
def test_a_row_of_csv_is_where_it_begins(tmp_path: Path, before: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f'{before}prompt,completion\n"a\nb\nc",x\n\ny,z\n')
    first = 1 + before.count("\n")
    assert [row.where for row in load_dataset(file)] == [f"{file}, line {first + 1}", f"{file}, line {first + 5}"]


@pytest.mark.parametrize(("text", "advice"), [("Once upon a time\n", True), ('{"text": "a"\n', False)])
def test_plain_text_is_told_how_it_may_be_read(tmp_path: Path, text: str, advice: bool) -> None:
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(DataError, match="line 1: not valid JSON") as found:
        load_dataset(tmp_path / "notes.txt")
    assert ('rows of a .jsonl file: {"text": "..."}' in str(found.value)) == advice
