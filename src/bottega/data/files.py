"""Reading a file lazily into rows: one dict per row, with its line or row number.

Formats: text, JSON, JSONL, CSV, TSV and CoNLL, plain or compressed (gz, bz2, zst), spreadsheets, and Parquet. The
suffix decides the format and the byte-order mark the encoding (default UTF-8), unless a `Layout` sets them. A file that
cannot be read raises a DataError with the line and the option that would help. Memory does not grow with the file,
except for a JSON file that is one object, and for a spreadsheet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bottega.data import json_files
from bottega.data.conll_files import conll, is_conll
from bottega.data.json_files import CHUNK, json_file, json_lines
from bottega.data.open_files import COMPRESSED, open_text, refuse_nul, require_regular_file
from bottega.data.table_files import parquet, spreadsheet, table_reader
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import NumberedRows

__all__ = ["CHUNK", "COMPRESSED", "READERS", "SHEETS", "read", "readable", "suffix", "unit"]

# A longer text file is cut at blank lines into rows of about this many characters.
DOCUMENT_CHARACTERS = 1 << 24


def text(path: Path, layout: Layout) -> NumberedRows:
    """The file as one document, or as several if it is longer than `DOCUMENT_CHARACTERS`."""
    kept: list[str] = []
    size, start = 0, 1
    with open_text(path, layout.encoding) as file:
        # `readline` with a limit: a whole file may be one line.
        for line, part in enumerate(iter(lambda: file.readline(DOCUMENT_CHARACTERS), ""), 1):
            refuse_nul(path, line, part)
            kept.append(part)
            size += len(part)
            if size >= DOCUMENT_CHARACTERS and (not part.strip() or size >= 2 * DOCUMENT_CHARACTERS):
                yield start, {"text": "".join(kept)}
                kept, size, start = [], 0, line + 1
    if any(part.strip() for part in kept):
        yield start, {"text": "".join(kept)}


FileReader = Callable[[Path, Layout], NumberedRows]

# Keys are the values of `data.reader`.
READERS_BY_NAME: dict[str, FileReader] = {
    "text": text,
    "jsonl": json_lines,
    "json": json_file,
    "csv": table_reader(","),
    "tsv": table_reader("\t"),
    "conll": conll,
    "parquet": parquet,
    "spreadsheet": spreadsheet,
}

READERS: dict[str, str] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
    ".annotated": "conll",
    ".parquet": "parquet",
}
SHEETS = dict.fromkeys((".xlsx", ".xls", ".xlsb", ".ods"), "spreadsheet")
BY_SUFFIX = READERS | SHEETS

# CoNLL files are often saved with these suffixes, so the first lines decide.
AMBIGUOUS_SUFFIXES = (".txt", ".tsv")


def read(path: Path, layout: Layout | None = None) -> NumberedRows:
    """Yield (line or row number, fields) of every row of a file; a DataError if it has none."""
    layout = layout or Layout()
    require_regular_file(path)
    rows = READERS_BY_NAME[_reader_name(path, layout)](path, layout)
    first = next(rows, None)
    if first is None:
        raise DataError("the file holds no rows", where=str(path), fix="is it the right file?")
    yield first
    yield from rows


def _reader_name(path: Path, layout: Layout) -> str:
    """The reader of a file: from the layout, else from its suffix, else from its first lines."""
    if layout.reader != "auto":
        return layout.reader
    ending = suffix(path)
    unsure = ending in AMBIGUOUS_SUFFIXES and not (layout.columns or layout.delimiter)
    if (unsure or ending not in BY_SUFFIX) and path.exists() and _holds_conll(path, layout):
        return "conll"
    if ending not in BY_SUFFIX:
        raise DataError(
            f"cannot read {ending or 'a file without suffix'}",
            where=str(path),
            fix=f"set data.reader to what it holds ({'|'.join(READERS_BY_NAME)}), or convert it to one of "
            f"{' '.join(BY_SUFFIX)}, plain or {' '.join(COMPRESSED)}",
        )
    return BY_SUFFIX[ending]


def _holds_conll(path: Path, layout: Layout) -> bool:
    try:
        return is_conll(path, layout)
    except DataError:  # a binary file, or one in another encoding
        return False


def suffix(path: Path) -> str:
    """The suffix of a file in lower case, without that of its compression."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def readable(path: Path, layout: Layout | None = None) -> bool:
    """Whether `read` can read the path: a file with a known suffix, or any file if the layout names a reader."""
    return path.is_file() and (suffix(path) in BY_SUFFIX or (layout is not None and layout.reader != "auto"))


def unit(path: Path, layout: Layout) -> str:
    """The unit in which locations count the rows of a file: "line" or "row"."""
    reader = BY_SUFFIX.get(suffix(path)) if layout.reader == "auto" else layout.reader
    if reader == "json":
        return json_files.unit(path, layout)
    return "row" if reader in ("parquet", "spreadsheet") else "line"
