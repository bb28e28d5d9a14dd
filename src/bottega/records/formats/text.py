"""Plain text."""

from __future__ import annotations

from typing import ClassVar

from bottega.records.field_names import TEXT_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.prompts import Text
from bottega.records.record import Record


class TextFormat(Format):
    record: ClassVar[type[Record]] = Text
    required: ClassVar[RequiredFields] = (TEXT_FIELDS,)
    rank: ClassVar[int] = 190

    def build(self, where: str, fields: Fields) -> Record:
        return Text(where, require_string(where, fields, "text"))
