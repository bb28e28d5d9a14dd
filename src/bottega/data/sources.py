"""Files → fields: one dict a row, with the place it stands in the file.

Reads text, JSON, JSONL, CSV and TSV, in UTF-8. What cannot be read is a DataError that names file and line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.errors import DataError

Fields = dict[str, Any]


def read(path: Path) -> Iterator[tuple[str, Fields]]:
    """Every row of a file as (`file line N`, fields)."""
    if not path.exists():
        raise DataError("no such file", where=str(path), fix="check the path; it resolves against the recipe's folder")
    if path.is_dir():
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"cannot read {path.suffix or 'a file without suffix'}",
            where=str(path),
            fix=f"convert it to one of {' '.join(READERS)}",
        )
    rows = 0
    for line, fields in reader(path):
        rows += 1
        yield f"{path.name} line {line}", fields
    if not rows:
        raise DataError("the file holds no rows", where=str(path), fix="is it the right file?")


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"not UTF-8: byte 0x{data[error.start]:02x}",
            where=f"{path} line {line}",
            fix=f"convert it: iconv -f LATIN1 -t UTF-8 {path.name} > fixed{path.suffix}",
        ) from None


def _text(path: Path) -> Iterator[tuple[int, Fields]]:
    text = _decode(path)
    if text.strip():
        yield 1, {"text": text}


def _jsonl(path: Path) -> Iterator[tuple[int, Fields]]:
    for line, text in enumerate(_decode(path).split("\n"), 1):
        if text.strip():
            try:
                value = json.loads(text)
            except json.JSONDecodeError as error:
                raise _broken(path, line, error) from None
            yield line, _object(path, line, value)


def _json(path: Path) -> Iterator[tuple[int, Fields]]:
    """The objects of a JSON list, each with the line it starts on."""
    text = _decode(path)
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, error.lineno, error) from None
    if not isinstance(value, list):
        raise DataError(
            f"a JSON {_kind(value)} where a list of rows is expected",
            where=f"{path} line 1",
            fix="write the rows as [{…}, {…}], or one object a line in a .jsonl file",
        )
    yield from ((line, _object(path, line, row)) for line, row in zip(_starts(text), value, strict=True))


def _starts(text: str) -> Iterator[int]:
    """The line on which each element of a JSON list (known to be sound) starts."""
    decoder, place, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while True:
        while text[place].isspace() or text[place] == ",":
            place += 1
        if text[place] == "]":
            return
        line, counted = line + text.count("\n", counted, place), place
        yield line
        _, place = decoder.raw_decode(text, place)


def _table(delimiter: str) -> Callable[[Path], Iterator[tuple[int, Fields]]]:
    def rows(path: Path) -> Iterator[tuple[int, Fields]]:
        reader = csv.reader(io.StringIO(_decode(path), newline=""), delimiter=delimiter)
        header = next(reader, [])
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(header):
                raise DataError(
                    f"{len(values)} columns where the header has {len(header)}",
                    where=f"{path} line {line}",
                    fix="quote the field that holds the delimiter or a line break",
                )
            if values:
                yield line, dict(zip(header, values, strict=True))
            line = reader.line_num + 1

    return rows


def _object(path: Path, line: int, value: Any) -> Fields:
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON {_kind(value)} where a row is expected", where=f"{path} line {line}", fix='a row is {"field": …}'
        )
    return value


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "string", type(None): "null"}.get(type(value), "number")


def _broken(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    return DataError(
        f"broken JSON: {error.msg} at column {error.colno}", where=f"{path} line {line}", fix="mend or remove the line"
    )


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Fields]]]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
}


def read_all(paths: Sequence[Path]) -> Iterator[tuple[str, Fields]]:
    for path in paths:
        yield from read(path)
