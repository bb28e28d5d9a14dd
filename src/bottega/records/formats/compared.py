"""Two texts and their similarity, from 0 (unrelated) to 1 (same meaning)."""

from __future__ import annotations

from typing import ClassVar

from bottega.errors import DataError
from bottega.records.field_names import FIRST_TEXT_FIELDS, SECOND_TEXT_FIELDS
from bottega.records.fields import Fields, require_string
from bottega.records.formats import Format, RequiredFields
from bottega.records.formats._labels import parse_similarity, quote
from bottega.records.labels import Compared
from bottega.records.record import Record


class ComparedFormat(Format):
    record: ClassVar[type[Record]] = Compared
    required: ClassVar[RequiredFields] = (
        FIRST_TEXT_FIELDS,
        SECOND_TEXT_FIELDS,
        ("score", "similarity", "label", "is_duplicate"),
    )
    rank: ClassVar[int] = 150

    def accepts(self, fields: Fields) -> bool:
        names = self.match(fields) or {}
        return parse_similarity(fields[names["score"]]) is not None

    def tolerates(self, fields: Fields) -> bool:
        return True

    def build(self, where: str, fields: Fields) -> Record:
        score = parse_similarity(fields["score"])
        if score is None:
            raise DataError(
                f"score {quote(fields['score'])}",
                where=f"{where}, field score",
                fix="a number from 0, unrelated, to 1, the same meaning; divide other scales by their largest value",
            )
        first, second = (require_string(where, fields, name) for name in ("sentence1", "sentence2"))
        return Compared(where, first, second, score)
