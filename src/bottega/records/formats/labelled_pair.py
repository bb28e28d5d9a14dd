"""Two texts with one label of both: the texts are joined by a line break."""

from __future__ import annotations

from typing import ClassVar

from bottega.records.field_names import FIRST_TEXT_FIELDS, LABEL_FIELDS, SECOND_TEXT_FIELDS, WEAK_LABEL_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import parse_label
from bottega.records.labels import Labelled
from bottega.records.record import Record


class LabelledPairFormat(Format):
    record: ClassVar[type[Record]] = Labelled
    required: ClassVar[RequiredFields] = (
        (*FIRST_TEXT_FIELDS, "premise", "question", "query"),
        (*SECOND_TEXT_FIELDS, "hypothesis", "passage", "context", "sentence"),
        (*LABEL_FIELDS[:-1], "is_duplicate", "similarity", *WEAK_LABEL_FIELDS),
    )
    rank: ClassVar[int] = 100

    def accepts(self, fields: Fields) -> bool:
        names = self.match(fields) or {}
        texts = [fields[names[name]] for name in ("sentence1", "sentence2")]
        return all(isinstance(text, str) and text.strip() for text in texts)

    def tolerates(self, fields: Fields) -> bool:
        return True

    def build(self, where: str, fields: Fields) -> Record:
        first, second = (require_string(where, fields, name) for name in ("sentence1", "sentence2"))
        return Labelled(where, f"{first}\n{second}", parse_label(where, fields["label"], "label"))
