"""Texts with a list of labels, which may be empty."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import LABEL_LIST_FIELDS, TEXT_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import parse_label
from bottega.records.labels import Multilabelled
from bottega.records.record import Record


class MultilabelledFormat(Format):
    record: ClassVar[type[Record]] = Multilabelled
    required: ClassVar[RequiredFields] = (TEXT_FIELDS, LABEL_LIST_FIELDS)
    rank: ClassVar[int] = 110

    def build(self, where: str, fields: Fields) -> Record:
        values = fields["labels"]
        if not isinstance(values, list):
            fix = 'write ["first", "second"], or []'
            raise DataError("labels is not a list", where=f"{where}, field labels", fix=fix)
        labels = dict.fromkeys(parse_label(where, value, "labels") for value in values)  # duplicates removed, in order
        return Multilabelled(where, require_string(where, fields, "text"), tuple(labels))
