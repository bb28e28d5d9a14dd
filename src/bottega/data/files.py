"""Files → fields: one dict a row, with the line it starts on, read as it is needed.

Reads text, JSON, JSONL, CSV, TSV and CoNLL in UTF-8, plain or compressed (gz, bz2, zst), and Parquet. What cannot be
read is a DataError that names file and line. Memory does not grow with a file, but for a JSON that is one object.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from bottega.data.fields import Fields
from bottega.errors import DataError

Rows = Iterator[tuple[int, Fields | DataError]]
"""Each row with its line; of a line that is broken, and the only one that is, the error stands in its place."""

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
DOCUMENT = 1 << 24
"""Most characters of a text file that are one row; a longer file is cut at blank lines into rows of about this."""

CHUNK = 1 << 16
ROW_LISTS = ("data", "rows", "examples", "train")
"""Where a JSON object keeps its rows, if it holds more than one list."""


def read(path: Path) -> Rows:
    """Every row of a file as (line, fields)."""
    reader = READERS.get(suffix(path))
    if os.path.isdir(path):
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl")
    if reader is None:
        raise DataError(
            f"cannot read {suffix(path) or 'a file without suffix'}",
            where=str(path),
            fix=f"convert it to one of {' '.join(READERS)}, plain or {' '.join(COMPRESSED)}",
        )
    rows = reader(path)
    first = next(rows, None)
    if first is None:
        raise DataError("the file holds no rows", where=str(path), fix="is it the right file?")
    yield first
    yield from rows


def suffix(path: Path) -> str:
    """The suffix that says what a file holds, under its compression."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def readable(path: Path) -> bool:
    """Whether this is a file, by its suffix, that `read` reads."""
    return suffix(path) in READERS and path.is_file()


@contextmanager
def _binary(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed; what the file system or the compression refuses is a DataError."""
    compression = COMPRESSED.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            if compression is None:
                yield file
            else:
                import pyarrow

                with pyarrow.CompressedInputStream(file, compression) as stream:
                    yield cast(BinaryIO, io.BufferedReader(stream))
    except FileNotFoundError:
        fix = "check the path; it resolves against the recipe's folder"
        raise DataError("no such file", where=str(path), fix=fix) from None
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except (OSError, ValueError) as error:
        if isinstance(error, json.JSONDecodeError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fix = "is it whole? check it, its path and its permissions"
        raise DataError(f"cannot be read: {reason}", where=str(path), fix=fix) from None


@contextmanager
def _opened(path: Path, newline: str = "") -> Iterator[TextIO]:
    """The file as text, without a byte-order mark."""
    with _binary(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def _not_utf8(path: Path) -> DataError:
    """Where the first byte stands that is not UTF-8."""
    with _binary(path) as file:
        for line, data in enumerate(file, 1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                wide = line == 1 and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                encoding = "UTF-16" if wide else "LATIN1"
                return DataError(
                    f"not UTF-8: byte 0x{data[error.start]:02x}",
                    where=f"{path} line {line}",
                    fix=f"convert it: iconv -f {encoding} -t UTF-8 {path.name} > fixed{path.suffix}",
                )
    return DataError("not UTF-8 to its end", where=str(path), fix="is the file whole?")


def _refuse_nul(path: Path, line: int, text: str) -> None:
    if "\0" in text:
        raise DataError(
            "holds a NUL byte, so it is no text",
            where=f"{path} line {line}",
            fix="is it the right file? remove the byte",
        )


# Text


def _text(path: Path) -> Rows:
    """The file as one document, or as several when it is longer than `DOCUMENT`."""
    kept: list[str] = []
    size, start = 0, 1
    with _opened(path) as file:
        for line, text in enumerate(file, 1):
            _refuse_nul(path, line, text)
            kept.append(text)
            size += len(text)
            if size >= DOCUMENT and (not text.strip() or size >= 2 * DOCUMENT):
                yield start, {"text": "".join(kept)}
                kept, size, start = [], 0, line + 1
    if any(text.strip() for text in kept):
        yield start, {"text": "".join(kept)}


# JSON


def _jsonl(path: Path) -> Rows:
    with _opened(path, "\n") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield line, _object(path, line, _parsed(path, text.rstrip("\r\n"), line))
                except DataError as error:
                    yield line, error


def _json(path: Path) -> Rows:
    """The objects of a JSON list, each with the line it starts on; or of the list in a JSON object."""
    with _opened(path) as file:
        text = file.read(CHUNK)
        while text.isspace() and (more := file.read(CHUNK)):
            text += more
        if not text.strip():
            return
        elements = _Elements(path, file, text)
        rows = iter(elements) if text.lstrip()[0] == "[" else _rows_inside(path, elements.everything())
        for line, row in rows:
            yield from _unnested(line, _object(path, line, row))


class _Elements:
    """The elements of a JSON list, decoded as the file is read."""

    def __init__(self, path: Path, file: TextIO, text: str) -> None:
        self.path, self.file, self.text = path, file, text
        self.line, self.counted, self.ended = 1, 0, False
        self.decoder = json.JSONDecoder()

    def everything(self) -> Any:
        return _parsed(self.path, self.text + self.file.read(), 1)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        place, comma = self.text.index("[") + 1, True
        while True:
            place = self._token(place)
            mark = self.text[place : place + 1]
            if mark == "]":
                return self._refuse_more(place + 1)
            if mark == ",":
                place, comma = self._token(place + 1), True
                mark = self.text[place : place + 1]
            if not comma or mark in ("", ","):
                raise self._broken("Expecting ',' delimiter" if mark and not comma else "Expecting value", place)
            if place > CHUNK:
                self._forget(place)
                place = 0
            line = self._at(place)
            value, place = self._value(place)
            comma = False
            yield line, value

    def _token(self, place: int) -> int:
        """The next place that is no white space."""
        while True:
            while place < len(self.text) and self.text[place].isspace():
                place += 1
            if place < len(self.text) or not self._more():
                return place

    def _value(self, place: int) -> tuple[Any, int]:
        while True:
            try:
                return self.decoder.raw_decode(self.text, place)
            except json.JSONDecodeError as error:
                # At the end of what was read, the value may only be cut off.
                cut = error.pos >= len(self.text) - 16 or error.msg.startswith(("Unterminated", "Invalid \\u"))
                if not (cut and self._more()):
                    raise self._broken(error.msg, error.pos) from None
            except (RecursionError, ValueError) as error:
                raise _beyond_measure(self.path, self._at(place), error) from None

    def _more(self) -> bool:
        """Read on, in steps that grow with what is kept, so that a long value costs no more than twice."""
        more = self.file.read(max(CHUNK, len(self.text)))
        self.text += more
        return bool(more)

    def _forget(self, place: int) -> None:
        self.line += self.text.count("\n", self.counted, place)
        self.text, self.counted = self.text[place:], 0

    def _at(self, place: int) -> int:
        """The line of a place after those asked for before."""
        self.line += self.text.count("\n", self.counted, place)
        self.counted = max(self.counted, place)
        return self.line

    def _refuse_more(self, place: int) -> None:
        place = self._token(place)
        if place < len(self.text):
            raise self._broken("Extra data", place)

    def _broken(self, problem: str, place: int) -> DataError:
        column = place - self.text.rfind("\n", 0, place)
        return _broken(self.path, self._at(place), problem, column)


def _rows_inside(path: Path, value: Any) -> Iterator[tuple[int, Any]]:
    """The rows of a JSON object that holds a list of them; all on line 1, where the object starts."""
    lists = {key: rows for key, rows in value.items() if isinstance(rows, list)} if isinstance(value, dict) else {}
    known = [name for name in ROW_LISTS if name in lists]
    if (len(lists) != 1 and not known) or not any(isinstance(row, dict) for rows in lists.values() for row in rows):
        raise DataError(
            f"a JSON {_kind(value)} where a list of rows is expected",
            where=f"{path} line 1",
            fix="write the rows as [{…}, {…}], or one object a line in a .jsonl file",
        )
    yield from ((1, row) for row in lists[known[0] if known else next(iter(lists))])


def _unnested(line: int, row: Fields) -> Rows:
    """A row as it is, or the questions of one in SQuAD's nesting of paragraphs (Rajpurkar et al. 2016)."""
    if not isinstance(row.get("paragraphs"), list):
        yield line, row
        return
    for paragraph in row["paragraphs"]:
        for question in paragraph.get("qas", []):
            yield line, {"context": paragraph.get("context"), **question}


def _parsed(path: Path, text: str, line: int) -> Any:
    """The JSON value in `text`, which starts on `line` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, line + error.lineno - 1, error.msg, error.colno) from None
    except (RecursionError, ValueError) as error:
        raise _beyond_measure(path, line, error) from None


def _object(path: Path, line: int, value: Any) -> Fields:
    if not isinstance(value, dict):
        raise DataError(
            f"a JSON {_kind(value)} where a row is expected", where=f"{path} line {line}", fix='a row is {"field": …}'
        )
    return value


def _kind(value: Any) -> str:
    return {dict: "object", bool: "boolean", list: "list", str: "string", type(None): "null"}.get(type(value), "number")


def _broken(path: Path, line: int, problem: str, column: int) -> DataError:
    several = suffix(path) == ".json" and problem == "Extra data"
    return DataError(
        f"broken JSON: {problem} at column {column}",
        where=f"{path} line {line}",
        fix="one object a line is JSONL: rename it to .jsonl" if several else "mend or remove the line",
    )


def _beyond_measure(path: Path, line: int, error: Exception) -> DataError:
    return DataError(f"JSON beyond measure: {error}", where=f"{path} line {line}", fix="mend or remove the line")


# Tables


def _table(delimiter: str) -> Callable[[Path], Rows]:
    def rows(path: Path) -> Rows:
        lines = _cells(path, delimiter)
        line, header = next(lines, (1, []))
        repeated = [name for index, name in enumerate(header) if name in header[:index]]
        if repeated:
            raise DataError(f"two columns are named {repeated[0]}", where=f"{path} line {line}", fix="rename one")
        for line, values in lines:
            if len(values) == len(header):
                yield line, dict(zip(header, values, strict=True))
                continue
            what = f"{len(values)} columns where the header has {len(header)}"
            fix = "quote the field that holds the delimiter or a line break"
            yield line, DataError(what, where=f"{path} line {line}", fix=fix)

    return rows


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each line of a table that is not blank, with its number."""
    csv.field_size_limit(sys.maxsize)
    with _opened(path) as file:
        reader = csv.reader(_without_nul(path, file), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                where = f"{path} line {line}"
                fix = "close the quote, or double a quote"
                raise DataError(f"broken table: {error}", where=where, fix=fix) from None
            if values:
                yield line, values


def _without_nul(path: Path, lines: TextIO) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        _refuse_nul(path, number, line)
        yield line


def _conll(path: Path) -> Rows:
    """Sentences of CoNLL's columns, a token a line: the first column is the token, the last its tag."""
    start, tokens, tags = 1, list[str](), list[str]()
    with _opened(path, "\n") as file:
        for line, text in chain(enumerate(file, 1), [(0, "")]):
            if text.strip() and not text.startswith("-DOCSTART-"):
                columns = text.rstrip("\r\n").split("\t" if "\t" in text else None)
                if len(columns) < 2 or not columns[0].strip() or not columns[-1].strip():
                    raise DataError(
                        "a token without a tag",
                        where=f"{path} line {line}",
                        fix="write token, tab, tag; a blank line parts sentences",
                    )
                start = start if tokens else line
                tokens.append(columns[0])
                tags.append(columns[-1].strip())
            elif tokens:  # a blank line, the start of a document, or the end of the file
                yield start, {"tokens": tokens, "tags": tags}
                tokens, tags = [], []


def _parquet(path: Path) -> Rows:
    """Rows of a Parquet file; the line is the number of the row."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException) as error:
        fix = "is it whole, and Parquet? check the path"
        raise DataError(f"cannot be read: {error}", where=f"{path} row {number + 1}", fix=fix) from None


READERS: dict[str, Callable[[Path], Rows]] = {
    ".txt": _text,
    ".md": _text,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".conll": _conll,
    ".bio": _conll,
    ".annotated": _conll,
    ".parquet": _parquet,
}
