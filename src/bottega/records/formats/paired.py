"""An anchor with a text that belongs to it, and any number of negatives: `negatives`, `neg`, `negative_1` …"""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import NEGATIVE_FIELD
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import parse_label
from bottega.records.labels import Paired
from bottega.records.record import Record


class PairedFormat(Format):
    record: ClassVar[type[Record]] = Paired
    required: ClassVar[RequiredFields] = (("anchor", "query"), ("positive", "pos"))
    rank: ClassVar[int] = 140

    def reads_extra(self, name: str) -> bool:
        return name == "label" or NEGATIVE_FIELD.fullmatch(name) is not None

    def build(self, where: str, fields: Fields) -> Record:
        values = [value for name, value in fields.items() if NEGATIVE_FIELD.fullmatch(name) and value is not None]
        texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
        negatives = tuple(require_string(where, {"negatives": text}, "negatives") for text in texts)
        positive = fields["positive"]
        if isinstance(positive, list) and len(positive) > 1:
            raise DataError("several positives", where=f"{where}, field positive", fix="write a row for each of them")
        positive = positive[0] if isinstance(positive, list) and positive else positive
        anchor = require_string(where, fields, "anchor")
        positive = require_string(where, {"positive": positive}, "positive")
        if positive in negatives:
            fix = "remove one of the two"
            raise DataError("positive among the negatives", where=f"{where}, field negatives", fix=fix)
        label = fields.get("label")
        return Paired(where, anchor, positive, negatives, None if label is None else parse_label(where, label, "label"))
