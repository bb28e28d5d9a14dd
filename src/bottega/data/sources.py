"""Files → fields: one dict a row, with the place it stands in the file.

Reads text, JSON, JSONL, CSV and TSV, in UTF-8. What cannot be read is a DataError that names file and line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bottega.errors import DataError

Fields = dict[str, Any]


def read(path: Path, name: str = "") -> Iterator[tuple[str, Fields]]:
    """Every row of a file as (`name line N`, fields)."""
    reader = READERS.get(path.suffix.lower())
    if reader is None and path.is_dir():
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl")
    if reader is None:
        raise DataError(
            f"cannot read {path.suffix or 'a file without suffix'}",
            where=str(path),
            fix=f"convert it to one of {' '.join(READERS)}",
        )
    rows = 0
    for line, fields in reader(path):
        rows += 1
        yield f"{name or path.name} line {line}", fields
    if not rows:
        raise DataError("the file holds no rows", where=str(path), fix="is it the right file?")


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        fix = "check the path; it resolves against the recipe's folder"
        raise DataError("no such file", where=str(path), fix=fix) from None
    except IsADirectoryError:
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"cannot be read: {reason}", where=str(path), fix="check the path and its permissions"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        encoding = "UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
        raise DataError(
            f"not UTF-8: byte 0x{data[error.start]:02x}",
            where=f"{path} line {line}",
            fix=f"convert it: iconv -f {encoding} -t UTF-8 {path.name} > fixed{path.suffix}",
        ) from None


def _text(path: Path) -> Iterator[tuple[int, Fields]]:
    text = _decode(path)
    if text.strip():
        yield 1, {"text": text}


def _jsonl(path: Path) -> Iterator[tuple[int, Fields]]:
    for line, text in enumerate(_decode(path).split("\n"), 1):
        if text.strip():
            yield line, _object(path, line, _parsed(path, text, line))


def _json(path: Path) -> Iterator[tuple[int, Fields]]:
    """The objects of a JSON list, each with the line it starts on."""
    text = _decode(path)
    if not text.strip():
        return
    value = _parsed(path, text, 1)
    if not isinstance(value, list):
        raise DataError(
            f"a JSON {_kind(value)} where a list of rows is expected",
            where=f"{path} line 1",
            fix="write the rows as [{…}, {…}], or one object a line in a .jsonl file",
        )
    yield from ((line, _object(path, line, row)) for line, row in zip(_starts(text), value, strict=True))


def _parsed(path: Path, text: str, line: int) -> Any:
    """The JSON value in `text`, which starts on `line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, line + error.lineno - 1, error) from None
    except (RecursionError, ValueError) as error:
        where = f"{path} line {line}"
        raise DataError(f"JSON beyond measure: {error}", where=where, fix="mend or remove the line") from None


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
        lines = _cells(path, delimiter)
        line, header = next(lines, (1, []))
        repeated = [name for index, name in enumerate(header) if name in header[:index]]
        if repeated:
            raise DataError(f"two columns are named {repeated[0]}", where=f"{path} line {line}", fix="rename one")
        for line, values in lines:
            if len(values) != len(header):
                raise DataError(
                    f"{len(values)} columns where the header has {len(header)}",
                    where=f"{path} line {line}",
                    fix="quote the field that holds the delimiter or a line break",
                )
            yield line, dict(zip(header, values, strict=True))

    return rows


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each line of a table that is not blank, with its number."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_decode(path), newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"{path} line {line}"
            raise DataError(f"broken table: {error}", where=where, fix="close the quote, or double a quote") from None
        if values:
            yield line, values


def _object(path: Path, line: int, value: Any) -> Fields:
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON {_kind(value)} where a row is expected", where=f"{path} line {line}", fix='a row is {"field": …}'
        )
    return value


def _kind(value: Any) -> str:
    return {dict: "object", bool: "boolean", list: "list", str: "string", type(None): "null"}.get(type(value), "number")


def _broken(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    several = path.suffix.lower() == ".json" and error.msg == "Extra data"
    return DataError(
        f"broken JSON: {error.msg} at column {error.colno}",
        where=f"{path} line {line}",
        fix="one object a line is JSONL: rename it to .jsonl" if several else "mend or remove the line",
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


def read_all(paths: Sequence[Path], others: Sequence[Path] = ()) -> Iterator[tuple[str, Fields]]:
    """The rows of all `paths`; a file that shares its name with another, of `others` too, is named with its folder."""
    names = Counter(path.name for path in {*paths, *others})
    for path in paths:
        yield from read(path, path.name if names[path.name] == 1 else f"{path.parent.name}/{path.name}")
