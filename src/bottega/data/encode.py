"""Records → examples, and why a row made none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bottega.batch import Example, Row
from bottega.data.example_cache import ExampleCache
from bottega.data.reader import describe_reasons
from bottega.errors import DataError
from bottega.objectives import Objective
from bottega.records import Record, Unusable
from bottega.tokenization.chat_template import ChatTemplateError
from bottega.tokenization.codec import Codec


@dataclass
class EncodedRows:
    """The examples of one side, and what became of the rows that are none.

    rows     all that were read, the unsound included
    dropped  rows that make no example, by reason
    """

    examples: ExampleCache
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def add(self, record: Record, objective: Objective, codec: Codec, *, source: int = 0, drop: bool = False) -> None:
        """Encode a record; `drop` leaves out one that a chat template refuses."""
        self.rows += 1
        with codec.track_truncation() as truncation:
            examples = self._encode(record, objective, codec, drop=drop)
        # A record that was cut and then dropped counts as both.
        self.truncated += truncation.count
        for index, rows in enumerate(examples):
            name = record.where if len(examples) == 1 else f"{record.where} block {index + 1}"
            self.examples.append(Example(name, rows, objective.about(record)), source, continues=index > 0)

    def _encode(self, record: Record, objective: Objective, codec: Codec, *, drop: bool) -> list[tuple[Row, ...]]:
        """The rows of a record's examples; none where it makes none, which is counted."""
        try:
            return objective.rows(record, codec)
        except Unusable as unusable:
            self.dropped[unusable.reason] += 1
        except ChatTemplateError as refused:
            if not drop:
                raise
            self.dropped[refused.what] += 1
        return []

    def refuse_empty(self, where: str) -> None:
        """A DataError with the true cause when no row would carry a loss."""
        if not self.examples.labelled:
            reasons = (
                f": {describe_reasons(self.dropped)}" if self.dropped else ": all that could be learned has weight 0"
            )
            long = any("max_length" in reason for reason in self.dropped)
            raise DataError(
                f"no row carries a label, so there is nothing to learn{reasons}",
                where=where,
                fix="raise data.max_length" if long else "mend the rows, or their weights; look: bottega preview",
            )
