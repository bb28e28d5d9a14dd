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
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def refuse_what_is_no_file(path: Path) -> None:
    """A DataError for a folder, a pipe or a device; a pipe would wait for ever, and rows are read more than once."""
    if os.path.isdir(path):
        raise DataError("a folder, not a file", where=str(path), fix=f"name the files: {path}/….jsonl")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError("a pipe or a device, not a file", where=str(path), fix="write its rows to a file first")


def no_such_file(path: Path) -> DataError:
    return DataError("no such file", where=str(path), fix="check the path; one in a recipe stands beside the recipe")


@contextmanager
def binary(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed; what the file system or the compression refuses is a DataError."""
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
        raise no_such_file(path) from None
    except (OSError, ValueError) as error:
        if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        fix = "is it whole? check it, its path, its permissions, and data.encoding if you gave one"
        raise DataError(f"cannot be read: {reason}", where=str(path), fix=fix) from None


@contextmanager
def opened(path: Path, encoding: str | None = None, newline: str = "") -> Iterator[TextIO]:
    """The file as text without a byte-order mark: in `encoding`; by default in what its mark says, or in UTF-8."""
    with binary(path) as file:
        used = _encoding(file, encoding)
        try:
            yield io.TextIOWrapper(file, encoding=used, newline=newline)
        except UnicodeDecodeError as error:
            raise _not_text(path, used, error) from None


def _encoding(file: io.BufferedReader, asked: str | None) -> str:
    """A mark says more than a name without one: `utf-16-le` would keep it as a character."""
    if asked is None or codecs.lookup(asked).name.startswith("utf"):
        start = file.peek(4)[:4]
        return next((name for mark, name in MARKS if start.startswith(mark)), asked or "utf-8")
    return asked


def _not_text(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    if not encoding.startswith("utf-8"):
        fix = "is it another encoding? data.encoding names it"
        return DataError(f"not {encoding}: {error.reason}", where=str(path), fix=fix)
    return _not_utf8(path)


def _not_utf8(path: Path) -> DataError:
    """Where the first byte stands that is not UTF-8."""
    with binary(path) as file:
        for line, data in enumerate(cast(BinaryIO, file), 1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"not UTF-8: byte 0x{data[error.start]:02x}",
                    where=f"{path} line {line}",
                    fix="say its encoding: data.encoding=latin-1 (cp1252, utf-16, gb18030 …); or convert it with iconv",
                )
    return DataError("not UTF-8 to its end", where=str(path), fix="is the file whole?")


# Maximum characters of a row. A row of a hundred million takes minutes and gigabytes, only to be cut to `max_length`.
LONGEST = 1 << 24


def lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """Each line with its number; a DataError at the first that is longer than a row may be."""
    for number, text in enumerate(iter(lambda: file.readline(LONGEST + 1), ""), 1):
        refuse_long(path, number, len(text))
        yield number, text


def refuse_long(path: Path, line: int, length: int, unit: str = "line") -> None:
    if length > LONGEST:
        raise DataError(
            f"a row of more than {LONGEST:,} characters",
            where=f"{path} {unit} {line}",
            fix="part it into several rows, or write plain text as a .txt, which is cut by itself",
        )


def characters(value: Any) -> int:
    """How many characters the texts of a value have, or some number beyond `LONGEST` where they have more."""
    waiting, count = [value], 0
    while waiting and count <= LONGEST:
        one = waiting.pop()
        if isinstance(one, (str, bytes)):
            count += len(one)
        elif isinstance(one, (list, dict)):
            waiting += one.values() if isinstance(one, dict) else one
    return count


def refuse_nul(path: Path, line: int, text: str) -> None:
    if "\0" in text:
        raise DataError(
            "holds a NUL byte, so it is no text",
            where=f"{path} line {line}",
            fix="is it the right file? if it is UTF-16: data.encoding=utf-16-le; else remove the byte",
        )


def refuse_nul_lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines as they are; a DataError at the first that holds a NUL byte, or is longer than a row may be."""
    for number, line in lines(path, file):
        refuse_nul(path, number, line)
        yield line
