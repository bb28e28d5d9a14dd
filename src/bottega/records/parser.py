"""Parsing the raw rows of a source into records, in the format of its first row or of the recipe."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bottega.errors import DataError, RecipeError
from bottega.records.cells import parse_list_cells
from bottega.records.detection import DetectedFormat, detect_format, normalize_names
from bottega.records.fields import Fields, InvalidRow
from bottega.records.prompts import Text
from bottega.records.record import Record
from bottega.records.text_template import TemplateFormat
from bottega.suggestions import join_names


def parse_rows(
    rows: Iterable[tuple[str, Fields | DataError]],
    reads: tuple[type, ...],
    *,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    text_template: str | None = None,
    on_bad: Callable[[DataError], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
    on_format: Callable[[str, Fields], None] | None = None,
    on_unread: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[Record]:
    """Yield every valid row as a record of one of the classes in `reads`, the preferred class first.

    mapping        canonical field name → the file's name
    text_template  builds the text of each row from its fields: `"Q: {question}\\nA: {answer}"`
    on_bad         called with the error of an invalid row, which is then dropped; by default it is raised
    on_broken      called with the error of a line that cannot be parsed; by default it is raised: the file is damaged
    on_format      called once, with the name of the format and the first row
    on_unread      called with the names of all ignored fields so far, each time a new one appears
    """
    if text_template is not None and Text not in reads:
        raise RecipeError("this objective reads no plain text", where="data.text_template", fix="leave it out")
    detected, name = (None, format) if text_template is None else (_template_format(text_template), "text_template")
    reported, ignored = on_format is None, set[str]()
    for where, fields in rows:
        if isinstance(fields, DataError):
            handler = (on_bad or on_broken) if isinstance(fields, InvalidRow) else on_broken
            if handler is None:
                raise fields
            handler(fields)
            continue
        try:
            fields = parse_list_cells(_apply_mapping(where, fields, mapping) if mapping else fields)
            if detected is None:
                detected, name = detect_format(where, fields, reads, format)
            fields = normalize_names(fields) if detected.normalize else fields
            if on_format is not None and not reported:
                on_format(name, fields)
                reported = True
            if on_unread is not None and (new := detected.ignored_fields(fields) - ignored):
                ignored |= new
                on_unread(sorted(ignored))
            yield _build_record(where, fields, detected)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _template_format(template: str) -> DetectedFormat:
    format = TemplateFormat(template)
    return DetectedFormat(format, "data.text_template", {name: name for name in format.names})


def _build_record(where: str, fields: Fields, detected: DetectedFormat) -> Record:
    """Build the record of a row; errors name fields as the file does."""
    for canonical, name in detected.names.items():
        if name not in fields:
            raise _missing_field_error(where, name, fields, detected.chosen_by)
        # A prompt keeps the file's name: a `question` becomes a user message, a `prompt` is used verbatim.
        if name != canonical and canonical != "prompt":
            fields = {**fields, canonical: fields[name]}
    try:
        return detected.format.build(where, fields)
    except DataError as error:
        location, separator, canonical = (error.where or "").rpartition(", field ")
        name = detected.names.get(canonical, canonical)
        if separator and name != canonical:
            raise DataError(error.what, where=f"{location}, field {name}", fix=error.fix) from None
        raise


def _apply_mapping(where: str, fields: Fields, mapping: Mapping[str, str]) -> Fields:
    """The row with the mapped fields under their canonical names."""
    for name in mapping.values():
        if name not in fields:
            raise _missing_field_error(where, name, fields, "data.mapping")
    renamed = set(mapping.values())
    kept: dict[str, Any] = {name: value for name, value in fields.items() if name not in renamed}
    return kept | {canonical: fields[name] for canonical, name in mapping.items()}


def _missing_field_error(where: str, field: str, fields: Fields, required_by: str) -> DataError:
    similar = difflib.get_close_matches(field, fields, 1)
    hint = f"did you mean {similar[0]}?" if similar else f"the row has {join_names(fields) or 'no fields'}"
    return DataError(f"no field {field}, required by {required_by}", where=f"{where}, field {field}", fix=hint)
