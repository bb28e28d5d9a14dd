"""How rows can be read: the formats with their fields, and the first rows of a file as a format reads them.

For choosing a format and a mapping by looking at what comes of them, before there is a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bottega import objectives
from bottega.data.reader import read_rows
from bottega.errors import DataError
from bottega.recipe.schema import Source
from bottega.records.fields import Fields
from bottega.records.formats import Format, load_formats, record_types
from bottega.records.parser import parse_rows

# Fields that a format may read beside those it requires, in the order in which they are asked for.
OPTIONAL_FIELDS = ("prompt", "system", "history", "input", "context", "tools", "answer", "label")


@dataclass(frozen=True)
class FormatFields:
    """A row format, as somebody who chooses one sees it.

    required    the names of the fields that a row must have, as a mapping calls them
    optional    further ones that it reads
    objectives  the objectives that read such rows
    """

    name: str
    required: Sequence[str]
    optional: Sequence[str]
    objectives: Sequence[str]


@dataclass(frozen=True)
class RowExample:
    """A row, and what is read from it; or why it cannot be read.

    where   its location
    prompt  the input of the model, and `answer` what it is to answer: the label of a classified text
    error   (what, fix) if it is invalid
    """

    where: str
    prompt: str = ""
    answer: str = ""
    error: tuple[str, str] | None = None


@dataclass(frozen=True)
class RowExamples:
    """The first rows of a file as a format reads them.

    format    the name of the format; None if none fits the first row
    fields    canonical name → the file's name of each field that is read
    ignored   fields that nothing reads
    examples  the rows
    """

    format: str | None
    fields: dict[str, str]
    ignored: Sequence[str]
    examples: Sequence[RowExample]


def row_formats() -> list[FormatFields]:
    """Every row format, the likeliest first."""
    return [
        FormatFields(
            name,
            [accepted[0] for accepted in format.required],
            [field for field in OPTIONAL_FIELDS if _reads_beside(format, field)],
            [kind for kind in objectives.kinds() if issubclass(format.record, objectives.load(kind).reads)],
        )
        for name, format in load_formats().items()
    ]


def _reads_beside(format: Format, field: str) -> bool:
    required = {name for accepted in format.required for name in accepted}
    return field not in required and format.reads_extra(field)


def row_examples(source: Source, count: int = 5) -> RowExamples:
    """The first `count` rows of a source, as its format and mapping read them; a DataError if none of them has fields.

    A row that does not fit is no error here, but says what is wrong with it.
    """
    raw = list(islice(read_rows([source], on_damage=_ignore), count))
    damaged = {place: error for place, error in raw if isinstance(error, DataError)}
    found = {place: RowExample(place, error=(error.what, error.fix or "")) for place, error in damaged.items()}
    seen: dict[str, Any] = {"name": None, "row": {}, "ignored": ()}

    def note_error(error: DataError) -> None:
        # The location of a faulty field is that of its row and more.
        where = (error.where or "").partition(", field ")[0]
        found[where] = RowExample(where, error=(error.what, error.fix or ""))

    def note_format(name: str, row: Fields) -> None:
        seen.update(name=name, row=row)

    records = parse_rows(
        raw,
        record_types(),
        format=source.format,
        mapping=source.mapping,
        text_template=source.text_template,
        on_bad=note_error,
        on_broken=_ignore,
        on_format=note_format,
        on_unread=lambda names: seen.update(ignored=names),
    )
    for record in records:
        parts = record.parts()
        found[record.where] = RowExample(record.where, parts.prompt, parts.answer)
    fields = dict(_fields_read(seen["name"], seen["row"], source))
    return RowExamples(seen["name"], fields, seen["ignored"], [found[where] for where, _ in raw if where in found])


def _fields_read(name: str | None, row: Fields, source: Source) -> Iterator[tuple[str, str]]:
    """(canonical name, name in the file) of each field that a format reads of a row, whose mapping was applied."""
    format = load_formats().get(name or "")
    if format is None:
        return
    matched = format.match(row) or {}
    for canonical, field in matched.items():
        yield canonical, source.mapping.get(field, field)
    for canonical, field in source.mapping.items():
        if canonical not in matched:
            yield canonical, field
    read = {*matched.values(), *source.mapping}
    yield from ((field, field) for field in row if field not in read and format.reads_extra(field))


def _ignore(error: DataError) -> None:
    """Damage is shown in its place, or stands behind the first rows."""
