"""What training would make of each row: too long, truncated, or without any token that carries loss, and why."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.lengths import length_histogram
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.records import Unusable
from bottega.tokenization.chat_template import ChatTemplateError

if TYPE_CHECKING:
    from bottega.auditing.encode import EncodeRecord
    from bottega.tokenization.codec import Codec


class NoLoss(Check):
    """Encodes every row with the model's tokenizer and template; counts tokens and finds rows without loss."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.tokens, self.truncated = array("q"), array("q")  # tokens per row; indices of truncated rows
        self.rows_by_reason: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def add(self, entries: Sequence[Entry]) -> None:
        codec, encode = self.context.codec, self.context.encode
        if codec is None or encode is None:
            return
        # Tokenizing a batch of texts at once is faster than one by one.
        with codec.precomputed(codec.encode_ahead([entry.record for entry in entries])):
            for entry in entries:
                self._encode(entry, codec, encode)

    def _encode(self, entry: Entry, codec: Codec, encode: EncodeRecord) -> None:
        try:
            with codec.track_truncation() as truncation:
                examples = encode(entry.record)
        except Unusable as unusable:
            self.rows_by_reason[unusable.reason].append(entry.row)
            return
        except ChatTemplateError as refused:
            self.rows_by_reason[refused.what].append(entry.row)
            return
        rows = [row for example in examples for row in example]
        self.tokens.append(sum(len(row.tokens) for row in rows))
        if not any(row.loss_count for row in rows):
            self.rows_by_reason["all of its answers have weight 0"].append(entry.row)
        elif truncation.count:
            self.truncated.append(entry.row)

    def findings(self) -> Iterator[Finding]:
        for reason, rows in sorted(self.rows_by_reason.items(), key=lambda pair: -len(pair[1])):
            fix = "correct or remove them: training skips them"
            if "max_length" in reason:
                fix = "raise data.max_length"
            what = f"no token carries loss: {reason}"
            yield self.context.finding("nothing to learn", "error", what, fix, rows, mend="remove")
        if self.truncated and self.context.codec:
            what = f"longer than {self.context.codec.max_length} tokens: the end is cut off"
            fix = "raise data.max_length, or shorten them"
            yield self.context.finding("too long", "warning", what, fix, self.truncated)

    @property
    def unchecked(self) -> str:
        return "" if self.context.codec else "how many tokens the rows have, and which carry no loss: needs --model"

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        return {"tokens": length_histogram(np.array(self.tokens))} if self.tokens else {}
