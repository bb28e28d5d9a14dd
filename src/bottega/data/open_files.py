"""Opening files: decompression, decoding, and errors that name the option that would help."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from bottega.errors import DataError

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}

# Byte-order marks, and the encodings that consume them.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def require_regular_file(path: Path) -> None:
    """Raise a DataError for a folder, a pipe or a device."""
    # A pipe would block until something writes to it, and rows are read more than once.
    if os.path.isdir(path):
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError("a pipe or a device, not a file", where=str(path), fix="write its rows to a file first")


def missing_file_error(path: Path) -> DataError:
    return DataError(
        "no such file", where=str(path), fix="check the path; in a recipe it resolves against the recipe's folder"
    )


@contextmanager
def open_binary(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of the file, decompressed; errors of the file system and of the compression become DataErrors."""
    compression = COMPRESSED.get(path.suffix.lower())
    try:
        with path.open("rb") as file:
            if compression is None:
                yield file
            else:
                import pyarrow

                with pyarrow.CompressedInputStream(file, compression) as stream:
                    yield io.BufferedReader(cast(io.RawIOBase, stream))
    except FileNotFoundError:
        raise missing_file_error(path) from None
    except (OSError, ValueError) as error:
        # Both are ValueErrors raised by the caller inside the `with` block, which reports them with their line.
        if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fix = "check that it is complete, its path, its permissions, and data.encoding if it is set"
        raise DataError(f"cannot be read: {reason}", where=str(path), fix=fix) from None


@contextmanager
def open_text(path: Path, encoding: str | None = None, newline: str = "") -> Iterator[TextIO]:
    """The file as text, without its byte-order mark. `encoding` defaults to that of the mark, or UTF-8."""
    with open_binary(path) as file:
        used = _detect_encoding(file, encoding)
        try:
            yield io.TextIOWrapper(file, encoding=used, newline=newline)
        except UnicodeDecodeError as error:
            raise _decoding_error(path, used, error) from None


def _detect_encoding(file: io.BufferedReader, encoding: str | None) -> str:
    """The encoding of a file, given the configured one."""
    # A mark overrides `utf-16-le` as well, which would keep it as a character.
    if encoding is None or codecs.lookup(encoding).name.startswith("utf"):
        start = file.peek(4)[:4]
        return next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), encoding or "utf-8")
    return encoding


def _decoding_error(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    if not encoding.startswith("utf-8"):
        fix = "set data.encoding to the encoding of the file"
        return DataError(f"not {encoding}: {error.reason}", where=str(path), fix=fix)
    return _utf8_error(path)


def _utf8_error(path: Path) -> DataError:
    """The error that names the line of the first byte that is not UTF-8."""
    with open_binary(path) as file:
        for line, data in enumerate(cast(BinaryIO, file), 1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"not UTF-8: byte 0x{data[error.start]:02x}",
                    where=f"{path} line {line}",
                    fix="set its encoding: data.encoding=latin-1 (cp1252, utf-16, gb18030 …); or convert it with iconv",
                )
    return DataError("not UTF-8 at its end", where=str(path), fix="check that the file is complete")


# Maximum characters of a row. A row of a hundred million takes minutes and gigabytes, only to be cut to `max_length`.
MAX_ROW_CHARACTERS = 1 << 24


def lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of each line; a DataError at the first that is longer than a row may be."""
    # One character more than the limit: a longer line is noticed without reading all of it.
    for number, text in enumerate(iter(lambda: file.readline(MAX_ROW_CHARACTERS + 1), ""), 1):
        refuse_long(path, number, len(text))
        yield number, text


def refuse_long(path: Path, line: int, length: int, unit: str = "line") -> None:
    if length > MAX_ROW_CHARACTERS:
        raise DataError(
            f"a row of more than {MAX_ROW_CHARACTERS:,} characters",
            where=f"{path} {unit} {line}",
            fix="split it into several rows, or write plain text as .txt, which is split automatically",
        )


def count_characters(value: Any) -> int:
    """Characters of all texts in a value; counting stops once they exceed `MAX_ROW_CHARACTERS`."""
    # A stack instead of recursion: values may be nested deeper than Python recurses.
    stack, count = [value], 0
    while stack and count <= MAX_ROW_CHARACTERS:
        item = stack.pop()
        if isinstance(item, (str, bytes)):
            count += len(item)
        elif isinstance(item, (list, dict)):
            stack += item.values() if isinstance(item, dict) else item
    return count


def refuse_nul(path: Path, line: int, text: str) -> None:
    if "\0" in text:
        raise DataError(
            "contains a NUL byte, so it is not text",
            where=f"{path} line {line}",
            fix="check that it is the right file; if it is UTF-16: data.encoding=utf-16-le; else remove the byte",
        )


def lines_without_nul(path: Path, file: TextIO) -> Iterator[str]:
    """Yield each line; a DataError at the first with a NUL byte, or longer than a row may be."""
    for number, line in lines(path, file):
        refuse_nul(path, number, line)
        yield line
