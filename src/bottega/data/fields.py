"""Fields of a row, checked as they are taken."""

from __future__ import annotations

import json
import re
from typing import Any

from bottega.errors import DataError

Fields = dict[str, Any]
"""A row of a file: values by name."""

HALVES = re.compile("[\ud800-\udfff]")
"""Halves of characters beyond the first 65,536, which are no characters."""

KINDS = {dict: "an object", list: "a list", bool: "a boolean", type(None): "empty"}


def string(where: str, fields: Fields, name: str, *, empty: bool = False) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"{name} is {KINDS.get(type(value), 'a number')}, not a string",
            where=f"{where}, field {name}",
            fix="write it as text",
        )
    if not value.isascii() and HALVES.search(value):
        raise DataError(f"{name} holds half a character", where=f"{where}, field {name}", fix="write it as Unicode")
    if not empty and not value.strip():
        raise DataError(f"empty {name}", where=f"{where}, field {name}", fix="fill in or remove the row")
    return value


def optional(where: str, fields: Fields, name: str) -> str:
    """The field, or nothing where it is absent, null or blank."""
    value = string(where, fields, name, empty=True) if fields.get(name) is not None else ""
    return value if value.strip() else ""


def from_json(where: str, text: Any) -> Any:
    """The value of JSON within a field."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"not JSON: {error}", where=where, fix="write the call or the tools as JSON") from None
