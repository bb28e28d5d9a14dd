"""Encoding records into examples, with counts of the rows that were dropped or truncated."""

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
    """The examples of one side of the split, and counts of the rows behind them.

    rows       rows that were read, including the invalid ones
    dropped    rows that make no example: how many for each reason
    truncated  rows that lost tokens to `max_length`
    """

    examples: ExampleCache
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0

    def add(self, record: Record, objective: Objective, codec: Codec, *, source: int = 0, drop: bool = False) -> None:
        """Encode a record and append its examples.

        source  index of the source the record comes from
        drop    drop a record that the chat template refuses, instead of raising a DataError
        """
        self.rows += 1
        with codec.track_truncation() as truncation:
            examples = self._encode(record, objective, codec, drop=drop)
        # A record that was cut and then dropped counts as both.
        self.truncated += truncation.count
        for index, rows in enumerate(examples):
            name = record.where if len(examples) == 1 else f"{record.where} block {index + 1}"
            self.examples.append(Example(name, rows, objective.metadata(record)), source, continues=index > 0)

    def _encode(self, record: Record, objective: Objective, codec: Codec, *, drop: bool) -> list[tuple[Row, ...]]:
        """The token rows of each example of a record; an empty list, counted in `dropped`, if it makes none."""
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
        """Raise a DataError with the most frequent causes if no row carries a loss."""
        if not self.examples.labelled:
            reasons = (
                f": {describe_reasons(self.dropped)}" if self.dropped else ": every token to be learned has weight 0"
            )
            long = any("max_length" in reason for reason in self.dropped)
            raise DataError(
                f"no row carries a label, so there is nothing to learn{reasons}",
                where=where,
                fix="raise data.max_length"
                if long
                else "fix the rows or their weights; bottega preview RECIPE shows them",
            )
