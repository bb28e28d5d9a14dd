"""Rows that are empty where others say something, very short, or cut off."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.records import Chat, Prompted, Text
from bottega.tokenization.unicode_words import counted

ENDS = tuple(".!?…:;\"'”’»)]}>`*|।۔؟။។།。！？」』）】")
"""What a finished text ends with."""

SENTENCE, USUAL = 8, 0.9
"""Words from which on an answer is taken for a sentence, and the share of sentences that end as they should, above
which the others are taken for cut off."""

SAME, SHARE = 5, 0.01
"""So many rows, and this share of them, of exactly the greatest length were cut there."""


class Lengths(Check):
    """What characters and words tell; tokens are counted where a model is named."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows, self.sizes = array("q"), array("q")
        self.blank, self.short, self.open = array("q"), array("q"), array("q")
        self.sentences = 0

    def see(self, entries: Sequence[Entry]) -> None:
        for one in entries:
            self.rows.append(one.number)
            self.sizes.append(len(one.content))
            if not one.asked.strip() and not isinstance(one.record, Text):
                self.blank.append(one.number)
            if counted(one.content) < 2:
                self.short.append(one.number)
            if isinstance(one.record, (Text, Prompted, Chat)):
                self._look_at_end(one)

    def _look_at_end(self, one: Entry) -> None:
        answer = one.answer.rstrip()
        if counted(answer) >= SENTENCE:
            self.sentences += 1
            if not answer.endswith(ENDS):
                self.open.append(one.number)

    def findings(self) -> Iterator[Finding]:
        count = len(self.rows)
        if 0 < len(self.blank) < count / 2:
            what, fix = "no input, where most rows have one", "fill in what was asked, or remove the rows"
            yield self.context.finding("empty input", "warning", what, fix, self.blank)
        if 0 < len(self.short) < count / 2:
            what, fix = "a single word, where most rows have more", "look at them: is something missing?"
            yield self.context.finding("very short", "note", what, fix, self.short)
        if len(self.open) and self._ends_tell:
            what = f"ends in the middle of a sentence, where {1 - len(self.open) / self.sentences:.0%} end with a mark"
            yield self.context.finding("cut off", "warning", what, "write them to their end, or remove them", self.open)
        sizes = np.array(self.sizes)
        longest = np.flatnonzero(sizes == sizes.max(initial=0))
        if len(longest) >= max(SAME, SHARE * count) and len(np.unique(sizes)) > SAME:
            what = (
                f"{len(longest)} rows have exactly {sizes.max():,} characters, and none has more: they were cut there"
            )
            fix = "export them again without the limit"
            yield self.context.finding("cut off", "warning", what, fix, np.array(self.rows)[longest])

    @property
    def _ends_tell(self) -> bool:
        return len(self.open) < (1 - USUAL) * self.sentences

    @property
    def unchecked(self) -> str:
        if self.sentences and len(self.open) and not self._ends_tell:
            return "whether answers are cut off: too few end with a full stop or the like for that to tell"
        return ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        return {} if self.context.codec is not None else {"characters": histogram(np.array(self.sizes))}


def histogram(sizes: np.ndarray) -> list[tuple[str, int]]:
    """How many are in each range of lengths; every range goes to twice the one before."""
    if not len(sizes):
        return []
    bins = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    counts = np.bincount(bins)
    first = int(np.flatnonzero(counts)[0])
    return [(f"≤ {2**place:,}", int(counts[place])) for place in range(first, len(counts))]
