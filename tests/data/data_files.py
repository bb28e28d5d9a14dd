"""Reading the files that the tests of data write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bottega.data import files, sources
from bottega.data.files import READERS
from bottega.errors import DataError
from bottega.recipe.schema import Layout, Source
from bottega.records import Record
from bottega.records.parser import parse_rows
from making import shared_data

BOM = b"\xef\xbb\xbf"
TEXTUAL = [suffix for suffix in READERS if suffix != ".parquet"]


def read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file; the error of a line that is none is raised."""
    for line, fields in files.read(path):
        if isinstance(fields, DataError):
            raise fields
        yield line, fields


def rows(folder: Path, name: str, content: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    """(line, fields) of every row of a file with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read(path))


def refused(folder: Path, name: str, content: str | bytes, what: str) -> DataError:
    with pytest.raises(DataError, match=what) as caught:
        rows(folder, name, content)
    assert caught.value.where is not None
    assert str(folder / name) in caught.value.where
    assert caught.value.fix
    return caught.value


def lines_of(name: str) -> list[str]:
    return shared_data(name).read_text(encoding="utf-8").split("\n")


SPAM = [{"text": "één kaart", "label": "spam"}, {"text": "twee", "label": "ham"}]


def layout_rows(path: Path, content: str | bytes | None = None, **layout: Any) -> list[dict[str, Any]]:
    """The rows of a file with this content, the error of a row raised."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = [fields for _, fields in files.read(path, Layout(**layout))]
    for fields in found:
        if isinstance(fields, DataError):
            raise fields
    return [fields for fields in found if isinstance(fields, dict)]


def layout_refused(path: Path, content: str | bytes, **layout: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        layout_rows(path, content, **layout)
    assert str(path) in str(caught.value.where)
    return caught.value


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """A minimal .xlsx, written by hand: inline strings, numbers, booleans."""
    import zipfile

    head = '<?xml version="1.0" encoding="UTF-8"?>'
    spread = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"

    def cell(place: str, value: Any) -> str:
        if isinstance(value, bool):
            return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        if isinstance(value, str):
            return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{value}</t></is></c>'
        return "" if value is None else f'<c r="{place}"><v>{value}</v></c>'

    def sheet(table: list[list[Any]]) -> str:
        lines = "".join(
            f'<row r="{y}">{"".join(cell(f"{chr(64 + x)}{y}", value) for x, value in enumerate(row, 1))}</row>'
            for y, row in enumerate(table, 1)
        )
        return f'{head}<worksheet xmlns="{spread}"><sheetData>{lines}</sheetData></worksheet>'

    listed = "".join(f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(sheets, 1))
    related = "".join(
        f'<Relationship Id="rId{n}" Type="{office}/worksheet" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    kinds = '<Default Extension="xml" ContentType="application/xml"/>'
    kinds += '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("[Content_Types].xml", f'{head}<Types xmlns="{package}/content-types">{kinds}</Types>')
        begin = f'<Relationship Id="rId1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        book.writestr("_rels/.rels", f'{head}<Relationships xmlns="{package}/relationships">{begin}</Relationships>')
        book.writestr(
            "xl/workbook.xml",
            f'{head}<workbook xmlns="{spread}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>',
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'{head}<Relationships xmlns="{package}/relationships">{related}</Relationships>',
        )
        for number, table in enumerate(sheets.values(), 1):
            book.writestr(f"xl/worksheets/sheet{number}.xml", sheet(table))
    return path


def parsed(path: Path, text: str, *reads: type, **layout: Any) -> list[Record]:
    path.write_text(text, encoding="utf-8")
    ((_, rows),) = sources.open_sources([Source(path=str(path), **layout)])
    return list(parse_rows(rows, reads))
