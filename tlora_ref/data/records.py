"""Dataset files to records: JSON Lines, JSON, CSV, TSV and Parquet, packed with gzip or not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlora_ref.errors import DataError, did_you_mean, reason

SUFFIXES = (
    *(".jsonl", ".json", ".csv", ".tsv", ".parquet"),
    *(".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz"),
)
FORMS = "data are read from .jsonl, .json, .csv and .tsv (each also packed, .gz), and .parquet"
#: What others call the splits.
SPLITS_ELSEWHERE = {"training": "train", "evaluation": "test", **dict.fromkeys(("validation", "val", "dev"), "valid")}
#: Fields that hold lists: a cell of CSV has them as JSON.
LISTS = ("messages", "conversations", "input_ids", "labels", "token_type_ids")


def dataset_file(path: str | Path, split: str = "train") -> Path:
    """The file of a split: `path` itself if it is a file, else `<path>/<split>` with one of SUFFIXES; of a split in
    Parquet shards their common name, `<split>-*-of-00003.parquet`."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise DataError(f"{path}: there is no such file or directory of data")
    found = split_file(path, split)
    if found is not None:
        return found
    if (path / "config.json").is_file():
        raise DataError(f"{path}: is a model's folder, not data: give a file, or a directory of train, valid, test")
    there = splits(path)
    if there:
        hint = did_you_mean(split, there, SPLITS_ELSEWHERE)
        raise DataError(f'{path}: there is no split "{split}" in it: there is {" and ".join(there)}{hint}')
    raise DataError(f"{path}: there is no {split}.jsonl in it, nor data under another ending: {FORMS}")


def splits(path: Path) -> list[str]:
    """The splits that a directory of data has, by name."""
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    named = (re.fullmatch(r"(.+?)(-\d{5}-of-\d{5})?(\.\w+)(\.gz)?", name) for name in files)
    found = (m[1] for m in named if m is not None and f"{m[3]}{m[4] or ''}" in SUFFIXES)
    return [name for name in dict.fromkeys(found) if split_file(path, name) is not None]


def split_file(path: Path, split: str) -> Path | None:
    """The file of a split in a directory, or the common name of its shards; None where there is none."""
    found = next((path / f"{split}{end}" for end in SUFFIXES if (path / f"{split}{end}").is_file()), None)
    if found is not None:
        return found
    first = next(iter(sorted(path.glob(f"{split}-00000-of-[0-9][0-9][0-9][0-9][0-9].parquet"))), None)
    if first is None or first.stem.endswith("-00001"):
        return first
    return first.with_name(f"{split}-*{first.name[-17:]}")


def file_sha256(path: str | Path) -> str:
    """Digest of a data file, for manifests; of shards, that of one after the other."""
    digest = hashlib.sha256()
    for part in _shards(Path(path)):
        with part.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _shards(file: Path) -> list[Path]:
    """The files of a name; DataError where a shard of it is missing."""
    if "*" not in file.name or file.exists():
        return [file]
    before, _, count = file.stem.partition("*-of-")
    parts = [file.with_name(f"{before}{i:05}-of-{count}{file.suffix}") for i in range(int(count))]
    for part in parts:
        if not part.is_file():
            raise DataError(f"{part}: this shard is missing: {count} of them make the split. Copy all")
    return parts


def records(file: Path) -> Iterator[tuple[str, Any]]:
    """(where, value) of every record; DataError for a file that cannot be read."""
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if suffix == ".parquet":
        return (record for part in _shards(file) for record in _parquet(part))
    text = _text(file)
    if suffix in (".csv", ".tsv"):
        return _table(file, text, "\t" if suffix == ".tsv" else ",")
    return _json(file, text) if suffix == ".json" else _lines(file, text)


def _text(file: Path) -> str:
    try:
        packed = file.read_bytes()
        plain = gzip.decompress(packed) if file.suffix == ".gz" else packed
        # Excel's "Unicode text" and PowerShell's files say by their first two bytes what they are
        return plain.decode("utf-16" if plain.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not {error.encoding.upper()} text (byte {error.start}): save it as UTF-8. {FORMS}"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({reason(error)})") from error


# ---- JSON ----


def _lines(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    """One value a line; or values that take several lines, or a list of all rows, under a name that says otherwise."""
    found, number = [], 0
    try:
        for number, line in enumerate(text.split("\n"), 1):
            found += [(f"line {number}", _loads(line))] if line.strip() else []
    except ValueError as error:
        try:
            found = list(_values(text))
        except ValueError:
            said = f"not valid JSON ({reason(error)}). Expected one object a line; {FORMS}"
            raise DataError(f"{file}, line {number}: {said}{_plain_text(file, text)}") from error
    yield from _rows(file, found)


def _plain_text(file: Path, text: str) -> str:
    """What to do with a file of plain text, whose form no ending tells; nothing to say of another."""
    if file.suffix.startswith(".json") or text.lstrip().startswith(("{", "[")):
        return ""
    return '. Of plain text make rows of a .jsonl file: {"text": "..."}, or {"prompt": "..."} to be answered'


def _json(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    """A list of rows; an object of columns, or with the list under its only name; or JSON Lines."""
    try:
        found = list(_values(text))
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({reason(error)}). {FORMS}") from error
    if len(found) != 1:
        yield from _rows(file, found)
        return
    value = found[0][1]
    rows = _unwrapped(value) if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise DataError(
            f"{file}: expected a JSON list of rows, found {type(value).__name__}: a list, an object that holds one "
            '({"data": [...]}), or one row a line'
        )
    yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))


def _rows(file: Path, found: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    if len(found) == 1 and isinstance(found[0][1], list) and any(isinstance(row, dict) for row in found[0][1]):
        found = [(f"row {i}", row) for i, row in enumerate(found[0][1], 1)]
    yield from ((f"{file}, {at}", value) for at, value in found)


def _values(text: str) -> Iterator[tuple[str, Any]]:
    """(place, value) of JSON values that follow each other; ValueError where one is not valid."""
    decoder, at, line, row = json.JSONDecoder(object_pairs_hook=_unique), 0, 1, 0
    while True:
        start = at
        while at < len(text) and text[at].isspace():
            at += 1
        line += text.count("\n", start, at)
        if at == len(text):
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        row += 1
        yield f"row {row} (line {line})", value
        line, at = line + text.count("\n", at, end), end


def _loads(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different: which of two values counts would be a guess."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)[:40]!a} is there twice in one object")
    return values


def _unwrapped(value: dict[str, Any]) -> Any:
    """The rows in an object: itself, if it is one; the list under its only list's name; or columns, turned."""
    lists = {name: column for name, column in value.items() if isinstance(column, list)}
    if "input_ids" in lists and all(type(i) is int for i in lists["input_ids"]) and lists["input_ids"]:
        return [value]
    turns = [column for column in lists.values() if column and isinstance(column[0], dict)]
    if any("role" in column[0] or "from" in column[0] for column in turns):
        return [value]
    if len(lists) == 1 and turns:
        return turns[0]
    if value and all(isinstance(column, dict) for column in value.values()):  # pandas' to_json
        if all(name.isdecimal() for name in value):
            return list(value.values())
        numbers = [list(column) for column in value.values()]
        if numbers.count(numbers[0]) == len(numbers) and all(number.isdecimal() for number in numbers[0]):
            return [{name: column[number] for name, column in value.items()} for number in numbers[0]]
    if lists and len(lists) == len(value) and len({len(column) for column in lists.values()}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return [value] if len(lists) < len(value) else value


# ---- tables ----


def _table(file: Path, text: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Rows of CSV under the names in the first line."""
    csv.field_size_limit(2**31 - 1)
    lines = text.count("\n")
    text, delimiter = _delimited(text, delimiter)
    skipped = lines - text.count("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if len(set(names)) < len(names):
            raise DataError(f"{file}: two columns have one name: {', '.join(names)[:200]}")
        after = reader.line_num
        for cells in reader:
            # a cell may have line breaks: a row is where it begins
            where, after = f"{file}, line {skipped + after + 1}", reader.line_num
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise DataError(f"{where}: {len(cells)} cells, but the first line names {len(names)} columns")
            yield where, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise DataError(
            f"{file}, line {skipped + reader.line_num}: not valid CSV ({reason(error)}). {FORMS}"
        ) from error


def _delimited(text: str, delimiter: str) -> tuple[str, str]:
    """The text without Excel's line `sep=;`, and what separates its cells: where the first line has no comma, the
    semicolon, tabulator or bar that it has instead."""
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"sep=.\r?", first):
        return rest, first[4]
    if delimiter in first:
        return text, delimiter
    return text, next((other for other in ";\t|" if other in first), delimiter)


def _cell(name: str, cell: str) -> Any:
    if name in LISTS:
        try:
            return _loads(cell)
        except ValueError:
            return cell
    return cell


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{file}: Parquet needs pyarrow: pip install 'tlora-ref[parquet]'") from error
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise DataError(f"{file}: not a Parquet file that can be read ({reason(error)}). {FORMS}") from error
    yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))
