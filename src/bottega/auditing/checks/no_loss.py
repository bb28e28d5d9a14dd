"""What the model would learn of each row: too long, cut, or nothing at all, and why."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.checks.lengths import histogram
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.batch import Row
from bottega.records import Record, Unusable
from bottega.tokenization.chat_template import TemplateRefused
from bottega.tokenization.codec import Codec


class Learning(Check):
    """Rows without a token that carries loss under the model's tokenizer and template, and the lengths of all."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.tokens, self.cut = array("q"), array("q")
        self.nothing: dict[str, array[int]] = defaultdict(lambda: array("q"))

    def see(self, entries: Sequence[Entry]) -> None:
        codec = self.context.codec
        if codec is None or self.context.rows is None:
            return
        with codec.precomputed(codec.encode_ahead([one.record for one in entries])):
            for one in entries:
                self._encode(one, codec, self.context.rows)

    def _encode(self, entry: Entry, codec: Codec, encode: Callable[[Record], list[tuple[Row, ...]]]) -> None:
        try:
            with codec.track_truncation() as truncation:
                examples = encode(entry.record)
        except Unusable as unusable:
            self.nothing[unusable.reason].append(entry.number)
            return
        except TemplateRefused as refused:
            self.nothing[refused.what].append(entry.number)
            return
        rows = [row for example in examples for row in example]
        self.tokens.append(sum(len(row.tokens) for row in rows))
        if not any(row.labelled for row in rows):
            self.nothing["no token carries loss: the weights of its answers are 0"].append(entry.number)
        elif truncation.count:
            self.cut.append(entry.number)

    def findings(self) -> Iterator[Finding]:
        for reason, rows in sorted(self.nothing.items(), key=lambda pair: -len(pair[1])):
            fix = "raise data.max_length" if "max_length" in reason else "mend or remove them: training leaves them out"
            yield self.context.finding(
                "nothing to learn", "error", f"carries no loss: {reason}", fix, rows, mend="remove"
            )
        if self.cut and self.context.codec:
            what = f"longer than {self.context.codec.max_length} tokens, so that its end is cut"
            yield self.context.finding("too long", "warning", what, "raise data.max_length, or shorten them", self.cut)

    @property
    def unchecked(self) -> str:
        return "" if self.context.codec else "what the rows are in tokens, and which carry no loss: name a --model"

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        return {"tokens": histogram(np.array(self.tokens))} if self.tokens else {}
