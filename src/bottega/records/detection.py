"""Detecting the format of a source from its first row.

With `format: auto`, the format is the one the objective prefers among those whose fields the first row has, unless
another format uses the same fields and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bottega.errors import DataError, RecipeError
from bottega.records.fields import Fields
from bottega.records.formats import Format, load_formats
from bottega.suggestions import join_names

# Delimiters of tables whose suffix suggests another one.
OTHER_DELIMITERS = ";\t|"

# A longer column name is taken to be a cell: the table probably has no header.
MAX_COLUMN_NAME = 60

# Words with spaces, dots and dashes, as columns are named; a cell of text usually has other characters.
COLUMN_NAME = re.compile(r"\w[\w .-]{0,60}")


class DetectedFormat(NamedTuple):
    """The format of a source, what determined it (for messages), and the file's name of each field.

    normalize  field names match only in lower case without surrounding white space, such as `Question` in a spreadsheet
    """

    format: Format
    chosen_by: str
    names: Mapping[str, str]
    normalize: bool = False

    def ignored_fields(self, fields: Fields) -> set[str]:
        """Fields of a row that this format does not read."""
        read = {*self.names, *self.names.values()}
        return {name for name in fields if name not in read and not self.format.reads_extra(name)}


def detect_format(where: str, fields: Fields, reads: tuple[type, ...], name: str) -> tuple[DetectedFormat, str]:
    """The format of a source and its name: the configured one, or the one that fits the first row best.

    reads  classes of records, the preferred one first; their subclasses count as well
    """
    readable = {name: format for name, format in load_formats().items() if issubclass(format.record, reads)}
    if name != "auto":
        return _configured_format(fields, readable, name), name
    fitting, named = _matching_formats(fields, readable)
    normalize = not fitting and bool(_matching_formats(normalize_names(fields), readable)[0])
    if normalize:
        fitting, named = _matching_formats(normalize_names(fields), readable)
    if not fitting:
        what = f"fields {join_names(fields) or 'none'}: no format this objective reads"
        raise DataError(what, where=where, fix=_suggest_fix(fields, readable, named))
    # A format that uses the same fields and more describes the row better.
    used = {name: set(names.values()) for name, names in fitting.items()}
    fullest = [name for name in fitting if not any(used[name] < more for more in used.values())]
    # `min` keeps the first of equals, and the formats are in the order of their ranks.
    best = min(fullest, key=lambda name: _preference(readable[name], reads))
    return DetectedFormat(readable[best], "the format of the first row", fitting[best], normalize), best


def normalize_names(fields: Fields) -> Fields:
    """The row with lower-case, stripped field names; unchanged if two fields would get the same name."""
    normalized = {name.strip().lower(): value for name, value in fields.items()}
    return normalized if len(normalized) == len(fields) else fields


def _preference(format: Format, reads: tuple[type, ...]) -> int:
    """The position in `reads` of the class of records that the format builds."""
    return next(position for position, record in enumerate(reads) if issubclass(format.record, record))


def _configured_format(fields: Fields, readable: Mapping[str, Format], name: str) -> DetectedFormat:
    """The format set by `data.format`; a RecipeError if the objective does not read its records."""
    if name not in readable:
        raise RecipeError(
            f"this objective does not read {name} rows", where="data.format", fix=f"one of: {', '.join(readable)}"
        )
    format = readable[name]
    normalize = format.match(fields) is None and format.match(normalize_names(fields)) is not None
    fields = normalize_names(fields) if normalize else fields
    # If a required field is missing, the canonical names are those that the error asks for.
    canonical = {
        accepted[0]: next((field for field in accepted if field in fields), accepted[0]) for accepted in format.required
    }
    return DetectedFormat(format, f"format {name}", format.match(fields) or canonical, normalize)


def _matching_formats(fields: Fields, readable: Mapping[str, Format]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(formats that fit the row, with the file's field names; formats whose required fields it has)."""
    named = {name: names for name, format in readable.items() if (names := format.match(fields)) is not None}
    accepted = {name: names for name, names in named.items() if readable[name].accepts(fields)}
    fitting = accepted or {name: names for name, names in named.items() if readable[name].tolerates(fields)}
    return fitting, list(named)


def _suggest_fix(fields: Fields, readable: Mapping[str, Format], named: Sequence[str]) -> str:
    """Advice for a row that fits no format, from the likely cause.

    named  formats whose required fields the row has
    """
    known = " or ".join(" + ".join(accepted[0] for accepted in format.required) for format in readable.values())
    usual = f"it reads {known}; rename with data.mapping"
    if named:
        return f"as {named[0]}, {readable[named[0]].value_hint}; or: {usual}"
    delimiter = next((mark for mark in OTHER_DELIMITERS if len(fields) == 1 and mark in next(iter(fields))), None)
    if delimiter is not None:
        written = "tab" if delimiter == "\t" else repr(delimiter)
        return f"is {delimiter!r} the delimiter? data.delimiter={written}; {usual}"
    if (fields and not any(COLUMN_NAME.fullmatch(name) and not name.isdecimal() for name in fields)) or (
        any(len(name) > MAX_COLUMN_NAME or name.isdecimal() for name in fields)
    ):
        return f"is the first line a row? data.header=false data.columns=[text, label]; {usual}"
    if {name.lower() for name in fields} >= {"token", "tag"}:
        return f"is it one token per line? data.reader=conll data.header=true; {usual}"
    if set(fields) == {"text"}:
        return f"{usual}; for a file of another type set data.reader (conll, csv, tsv, jsonl …)"
    return f"{usual}; for a table without a header set data.header=false data.columns=[…]"
