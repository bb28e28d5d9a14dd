"""The fields of a row, and functions that read one with a check of its type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, time
from typing import Any

from bottega.errors import DataError

# The values of a row by field name, as its file holds them.
Fields = dict[str, Any]

# A row's location (`tickets.jsonl line 812`) with its fields, or with the error of a line that holds no row.
RawRow = tuple[str, Fields | DataError]

# (line or row number, fields) of each row of a file; the error of a line that cannot be parsed replaces its fields.
NumberedRows = Iterator[tuple[int, "Fields | DataError"]]


class InvalidRow(DataError):
    """A row that can be read but is invalid: `data.bad_rows` decides whether it is dropped."""


class Column(list[str]):
    """Values from consecutive lines of a file, beginning at line `line`; lets errors name the line of one value."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


# Unpaired UTF-16 surrogates: JSON can escape them, but they are no characters and no encoder accepts them.
SURROGATES = re.compile("[\ud800-\udfff]")

TYPE_NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    bool: "a boolean",
    bytes: "bytes",
    type(None): "empty",
}


def type_name(value: Any) -> str:
    """The type of a value in words, for error messages."""
    return "a date" if isinstance(value, (date, time)) else TYPE_NAMES.get(type(value), "a number")


def require_string(where: str, fields: Fields, name: str, *, empty: bool = False) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        dates = "save it with the column as text: the file holds dates in place of texts"
        raise DataError(
            f"{name} is {type_name(value)}, not a string",
            where=f"{where}, field {name}",
            fix=dates if isinstance(value, (date, time)) else "write it as text",
        )
    if not value.isascii() and SURROGATES.search(value):
        raise DataError(f"{name} contains half a character", where=f"{where}, field {name}", fix="write it as Unicode")
    if not empty and not value.strip():
        raise DataError(f"empty {name}", where=f"{where}, field {name}", fix="fill in or remove the row")
    return value


def optional_string(where: str, fields: Fields, name: str) -> str:
    """The text of a field; empty if it is absent, null or blank."""
    value = require_string(where, fields, name, empty=True) if fields.get(name) is not None else ""
    return value if value.strip() else ""


def parse_integer(value: Any) -> int | None:
    """An integer, also one that a table with missing values writes as 3.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value == value // 1 else None


def parse_json_field(where: str, text: Any) -> Any:
    """Parse JSON text inside a field; a DataError if it is not JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", where=where, fix="write the call or the tools as JSON") from None
