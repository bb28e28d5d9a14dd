"""Reading tables: CSV and TSV, spreadsheets, and Parquet with the types its schema declares."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.data import open_files
from bottega.data.open_files import binary, characters, no_such_file, opened, refuse_long, refuse_nul_lines
from bottega.errors import DataError
from bottega.recipe.schema import Layout
from bottega.records.fields import Fields, NumberedRows
from bottega.suggestions import join_names

HEADLESS = "or is the first line a row? then data.header=false data.columns=[text, label]"

# CSV and TSV


def table(delimiter: str) -> Callable[[Path, Layout], NumberedRows]:
    """A reader of tables whose cells are parted by `delimiter`, unless the layout names another."""

    def rows(path: Path, layout: Layout) -> NumberedRows:
        yield from _under_header(path, "line", _cells(path, layout.delimiter or delimiter, layout.encoding), layout)

    return rows


def _under_header(path: Path, unit: str, lines: Iterator[tuple[int, list[str]]], layout: Layout) -> NumberedRows:
    """The lines by the names of their cells: those of the first line, or those the layout gives."""
    header = list(layout.columns)
    if layout.has_header:
        line, first = next(lines, (1, []))
        header = header or first
        repeated = [name for index, name in enumerate(header) if name.strip() and name in header[:index]]
        if repeated:
            what = f"two columns are named {join_names([repeated[0]])}"
            raise DataError(what, where=f"{path} {unit} {line}", fix=f"rename one; {HEADLESS}")
    named = "data.columns names" if layout.columns else "the header has"
    for line, values in lines:
        if len(values) == len(header):
            yield line, dict(zip(header, values, strict=True))
            continue
        what = f"{len(values)} columns where {named} {len(header)}"
        fix = "quote the field that holds the delimiter or a line break; another delimiter is data.delimiter"
        yield line, DataError(what, where=f"{path} {unit} {line}", fix=fix)


def _cells(path: Path, delimiter: str, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    """Each line of a table that is not blank, with its number."""
    csv.field_size_limit(open_files.LONGEST + 1)
    with opened(path, encoding) as file:
        reader = csv.reader(refuse_nul_lines(path, file), delimiter=delimiter, strict=True)
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
            refuse_long(path, line, sum(map(len, values)))
            if values:
                yield line, values


# Spreadsheets


def spreadsheet(path: Path, layout: Layout) -> NumberedRows:
    """The rows of one sheet, its cells as text, as a CSV of it would have them; the line is the number of the row."""
    try:
        import python_calamine as calamine
    except ImportError:
        fix = "pip install 'bottega[spreadsheets]', or save it as CSV"
        raise DataError(f"cannot read {path.suffix} without python-calamine", where=str(path), fix=fix) from None
    try:
        with binary(path) as file:
            book = calamine.load_workbook(file)
            sheets = {name: book.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in book.sheet_names}
    except (calamine.CalamineError, OSError) as error:
        fix = "is it whole, and without a password? else save it as CSV"
        raise DataError(f"cannot read {path.suffix}: {error}", where=str(path), fix=fix) from None
    cells = _sheet(path, {name: rows for name, rows in sheets.items() if rows}, layout.field)
    yield from _under_header(path, "row", _filled(path, cells), layout)


def _sheet(path: Path, sheets: Mapping[str, list[list[Any]]], name: str | None) -> list[list[Any]]:
    """The sheet of a name, or the only one that holds anything."""
    if name is None and len(sheets) <= 1:
        return next(iter(sheets.values()), [])
    if name is None or name not in sheets:
        what = "several sheets hold rows" if name is None else f"no sheet {name} that holds rows"
        raise DataError(what, where=str(path), fix=f"say which: data.field is one of: {join_names(sheets)}")
    return sheets[name]


def _filled(path: Path, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, without the empty columns behind the last name."""
    shown = ([_shown(cell) for cell in row] for row in rows)
    lines = ((number, row) for number, row in enumerate(shown, 1) if any(row))
    width = None
    for number, row in lines:
        end = max(place for place, cell in enumerate(row, 1) if cell)
        width = width or end
        refuse_long(path, number, sum(map(len, row)), "row")
        yield number, row[: max(width, end)]


def _shown(cell: Any) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and cell == cell // 1 else str(cell)


# Parquet


def parquet(path: Path, layout: Layout) -> NumberedRows:
    """Rows of a Parquet file; the line is the number of the row."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            named = as_declared(_features(file.schema_arrow.metadata), encoded=True)
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    refuse_long(path, number, characters(row), "row")
                    yield number, named(row)
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        fix = "is it whole, and Parquet? check the path"
        raise DataError(f"cannot be read: {error}", where=f"{path} row {number + 1}", fix=fix) from None


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """What the `datasets` library wrote of the columns into a file's schema."""
    try:
        told = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def as_declared(
    features: Mapping[str, Any], *, made: bool = True, encoded: bool = False
) -> Callable[[Mapping[str, Any]], Fields]:
    """Rows of a table as the rows it was made of: classes by their names, and without what only its schema made.

    features  of the `datasets` library, as plain values. A class below 0 is none, so its row has no label
    made      nulls within a value were made by the schema, which gives an object the keys of all others
    encoded   of Json columns the rows hold the JSON
    """

    def row(fields: Mapping[str, Any]) -> Fields:
        try:
            told = {name: _without_nulls(value) for name, value in fields.items()} if made else fields
            return {name: _declared(value, features.get(name), encoded) for name, value in told.items()}
        except RecursionError:
            raise DataError("values nested beyond measure", where="a table", fix="store them as JSON text") from None

    return row


def _without_nulls(value: Any) -> Any:
    """A value without the nulls in the objects within it."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _declared(value: Any, feature: Any, encoded: bool) -> Any:
    """A value with its classes by their names, as deep as its feature tells of them."""
    if isinstance(feature, list) and feature:
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return value
    kind = feature.get("_type")
    if kind == "ClassLabel":
        return _class_name(value, feature.get("names"))
    if kind == "Json":
        return _decoded(value) if encoded else value
    inner = feature.get("feature") if kind in ("Sequence", "List", "LargeList") else feature
    if isinstance(value, list):
        return [_declared(one, inner, encoded) for one in value]
    if isinstance(value, dict) and isinstance(inner, dict):
        return {key: _declared(one, inner.get(key), encoded) for key, one in value.items()}
    return value


def _decoded(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _class_name(value: Any, names: Any) -> Any:
    if isinstance(value, list):  # a list of classes, in an object of lists
        return [_class_name(one, names) for one in value]
    if isinstance(value, bool) or not isinstance(value, int) or not isinstance(names, list):
        return value
    return names[value] if 0 <= value < len(names) else None
