"""Reading tables: CSV and TSV, spreadsheets, and Parquet with the types its schema declares."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.data import open_files
from bottega.data.open_files import (
    count_characters,
    lines_without_nul,
    missing_file_error,
    open_binary,
    open_text,
    refuse_long,
)
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Fields, NumberedRows
from bottega.suggestions import join_names

HEADER_HINT = "or is the first line a row? then data.header=false data.columns=[text, label]"

# CSV and TSV


def table_reader(delimiter: str) -> Callable[[Path, Layout], NumberedRows]:
    """A reader of tables whose cells are separated by `delimiter`, unless the layout sets another."""

    def rows(path: Path, layout: Layout) -> NumberedRows:
        yield from _named_rows(path, "line", _cells(path, layout.delimiter or delimiter, layout.encoding), layout)

    return rows


def _named_rows(path: Path, unit: str, lines: Iterator[tuple[int, list[str]]], layout: Layout) -> NumberedRows:
    """The lines as rows, with the column names of the layout or of the first line.

    A line with another number of cells yields an error in place of its row, so that `data.bad_rows` can drop it.
    """
    header = list(layout.columns)
    if layout.has_header:
        line, first = next(lines, (1, []))
        header = header or first
        repeated = [name for name, count in Counter(header).items() if name.strip() and count > 1]
        if repeated:
            what = f"two columns are named {join_names([repeated[0]])}"
            raise DataError(what, where=f"{path} {unit} {line}", fix=f"rename one; {HEADER_HINT}")
    expected = "data.columns has" if layout.columns else "the header has"
    for line, values in lines:
        if len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
            continue
        what = f"{len(values)} columns where {expected} {len(header)}"
        fix = "quote fields that contain the delimiter or a line break; set another delimiter with data.delimiter"
        yield line, DataError(what, where=f"{path} {unit} {line}", fix=fix)


def _cells(path: Path, delimiter: str, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of each line that is not blank."""
    # The csv module limits a cell to 131,072 characters, and only for the whole process.
    csv.field_size_limit(open_files.MAX_ROW_CHARACTERS + 1)
    with open_text(path, encoding) as file:
        reader = csv.reader(lines_without_nul(path, file), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1  # a row may span several lines: its first one
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                where = f"{path} line {line}"
                fix = "close the quote, or double a quote"
                raise DataError(f"broken table: {error}", where=where, fix=fix) from None
            refuse_long(path, line, sum(map(len, values)))
            if values:
                yield line, values


# Spreadsheets


def spreadsheet(path: Path, layout: Layout) -> NumberedRows:
    """The rows of one sheet, with cells as text as a CSV export would write them; counted in rows."""
    try:
        import python_calamine as calamine
    except ImportError:
        fix = "pip install 'bottega[spreadsheets]', or save it as CSV"
        raise DataError(f"cannot read {path.suffix} without python-calamine", where=str(path), fix=fix) from None
    try:
        with open_binary(path) as file:
            book = calamine.load_workbook(file)
            sheets = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    except (calamine.CalamineError, OSError) as error:
        fix = "check that it is complete and has no password, or save it as CSV"
        raise DataError(f"cannot read {path.suffix}: {error}", where=str(path), fix=fix) from None
    cells = _select_sheet(path, {name: rows for name, rows in sheets.items() if rows}, layout.field)
    yield from _named_rows(path, "row", _filled_rows(path, cells), layout)


def _select_sheet(path: Path, sheets: Mapping[str, list[list[Any]]], name: str | None) -> list[list[Any]]:
    """The sheet with this name, or the only one that is not empty."""
    if name is None and len(sheets) <= 1:
        return next(iter(sheets.values()), [])
    if name is None or name not in sheets:
        what = "several sheets have rows" if name is None else f"no sheet {name} with rows"
        raise DataError(what, where=str(path), fix=f"choose one: data.field is one of: {join_names(sheets)}")
    return sheets[name]


def _filled_rows(path: Path, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number, cells) of rows that are not blank, without the empty columns after the last column name."""
    texts = ([_cell_text(cell) for cell in row] for row in rows)
    lines = ((number, row) for number, row in enumerate(texts, 1) if any(row))
    width = None
    for number, row in lines:
        end = max(position for position, cell in enumerate(row, 1) if cell)
        width = width or end
        refuse_long(path, number, sum(map(len, row)), "row")
        yield number, row[: max(width, end)]


def _cell_text(cell: Any) -> str:
    # Spreadsheets store every number as a float: 3 is 3.0.
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and cell == cell // 1 else str(cell)


# Parquet


def parquet(path: Path, layout: Layout) -> NumberedRows:
    """The rows of a Parquet file, counted in rows."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            decode = feature_decoder(_features(file.schema_arrow.metadata), encoded=True)
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    refuse_long(path, number, count_characters(row), "row")
                    yield number, decode(row)
    except FileNotFoundError:
        raise missing_file_error(path) from None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        fix = "check that it is a complete Parquet file"
        raise DataError(f"cannot be read: {error}", where=f"{path} row {number + 1}", fix=fix) from None


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The features of the columns, which the `datasets` library writes into the schema of a file."""
    try:
        info = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = info["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def feature_decoder(
    features: Mapping[str, Any], *, drop_nulls: bool = True, encoded: bool = False
) -> Callable[[Mapping[str, Any]], Fields]:
    """A function that restores the rows from which a table was made: class names, and no nulls added by its schema.

    features    of the `datasets` library, as plain values. A class index below 0 means no label
    drop_nulls  remove nulls inside values: a schema gives every object in a column the keys of all others
    encoded     Json columns contain JSON text, to be decoded
    """

    def row(fields: Mapping[str, Any]) -> Fields:
        try:
            info = {name: _without_nulls(value) for name, value in fields.items()} if drop_nulls else fields
            return {name: _decode_value(value, features.get(name), encoded) for name, value in info.items()}
        except RecursionError:
            raise DataError("values are nested too deeply", where="a table", fix="store them as JSON text") from None

    return row


def _without_nulls(value: Any) -> Any:
    """The value without nulls in the objects inside it."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _decode_value(value: Any, feature: Any, encoded: bool) -> Any:
    """The value with class indices replaced by names, as deep as its feature describes it."""
    # Older versions of `datasets` write a list of a feature as [feature].
    if isinstance(feature, list) and feature:
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return value
    kind = feature.get("_type")
    if kind == "ClassLabel":
        return _class_name(value, feature.get("names"))
    if kind == "Json":
        return _parse_json(value) if encoded else value
    inner = feature.get("feature") if kind in ("Sequence", "List", "LargeList") else feature
    if isinstance(value, list):
        return [_decode_value(item, inner, encoded) for item in value]
    if isinstance(value, dict) and isinstance(inner, dict):
        return {key: _decode_value(item, inner.get(key), encoded) for key, item in value.items()}
    return value


def _parse_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _class_name(value: Any, names: Any) -> Any:
    if isinstance(value, list):  # a list of classes, in an object of lists
        return [_class_name(item, names) for item in value]
    if isinstance(value, bool) or not isinstance(value, int) or not isinstance(names, list):
        return value
    return names[value] if 0 <= value < len(names) else None
