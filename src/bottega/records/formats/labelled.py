"""Texts with one label."""

from __future__ import annotations

from typing import ClassVar

from bottega.records.field_names import LABEL_FIELDS, LABEL_LIST_FIELDS, TEXT_FIELDS, WEAK_LABEL_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import parse_label
from bottega.records.labels import Labelled
from bottega.records.record import Record


class LabelledFormat(Format):
    record: ClassVar[type[Record]] = Labelled
    required: ClassVar[RequiredFields] = (TEXT_FIELDS, (*LABEL_FIELDS, *WEAK_LABEL_FIELDS))
    rank: ClassVar[int] = 90

    def accepts(self, fields: Fields) -> bool:
        if "labels" in fields or any(name in fields for name in LABEL_FIELDS):
            # `labels` alone may be a list of several labels.
            return any(name in fields for name in LABEL_FIELDS[:-1]) or not isinstance(fields["labels"], list)
        # A weak name such as `score` counts only without a field named like a label, in whatever case.
        return not {name.strip().lower() for name in fields} & {*LABEL_FIELDS, *LABEL_LIST_FIELDS}

    def build(self, where: str, fields: Fields) -> Record:
        return Labelled(where, require_string(where, fields, "text"), parse_label(where, fields["label"], "label"))
