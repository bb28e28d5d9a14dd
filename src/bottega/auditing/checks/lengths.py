"""Empty inputs, very short rows, and answers that were cut off."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bottega.auditing.checks import Check, Context
from bottega.auditing.entries import Entry
from bottega.auditing.findings import Finding
from bottega.records import Chat, Prompted, Text
from bottega.tokenization.unicode_words import count_words

# What a complete text ends with: punctuation of any script, closing quotes and brackets, the end of markup.
ENDINGS = tuple(".!?…:;\"'”’»)]}>`*|।۔؟።။።。！？」』）】")

# Words from which an answer counts as a sentence; shorter ones ("yes", a name) need no full stop.
MIN_SENTENCE_WORDS = 8
# Fraction of the sentences that must end as expected; otherwise the data has another style, and endings tell nothing.
COMPLETE_FRACTION = 0.9

# Rows of exactly the greatest length that suggest a length limit: at least this many, and this fraction of all.
MIN_AT_LIMIT, AT_LIMIT_FRACTION = 5, 0.01


class Lengths(Check):
    """What characters and words reveal. Token counts are those of `no_loss`, which needs a model."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.rows, self.lengths = array("q"), array("q")  # lengths in characters
        self.no_input, self.single_word, self.unfinished = array("q"), array("q"), array("q")
        self.sentences = 0

    def add(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.rows.append(entry.row)
            self.lengths.append(len(entry.content))
            # A document has no input, and should have none.
            if not entry.prompt.strip() and not isinstance(entry.record, Text):
                self.no_input.append(entry.row)
            if count_words(entry.content) < 2:
                self.single_word.append(entry.row)
            if isinstance(entry.record, (Text, Prompted, Chat)):
                self._check_ending(entry)

    def _check_ending(self, entry: Entry) -> None:
        answer = entry.answer.rstrip()
        if count_words(answer) >= MIN_SENTENCE_WORDS:
            self.sentences += 1
            if not answer.endswith(ENDINGS):
                self.unfinished.append(entry.row)

    def findings(self) -> Iterator[Finding]:
        # Where half of the rows or more are so, it is a property of the data and not a fault.
        half = len(self.rows) / 2
        if 0 < len(self.no_input) < half:
            what, fix = "no input, where most rows have one", "add the input, or remove the rows"
            yield self.context.finding("empty input", "warning", what, fix, self.no_input)
        if 0 < len(self.single_word) < half:
            what, fix = "a single word, where most rows have more", "look at them: is something missing?"
            yield self.context.finding("very short", "note", what, fix, self.single_word)
        if len(self.unfinished) and self._endings_are_reliable:
            complete = 1 - len(self.unfinished) / self.sentences
            what = f"ends in the middle of a sentence, where {complete:.0%} end with punctuation"
            fix = "complete them, or remove them"
            yield self.context.finding("cut off", "warning", what, fix, self.unfinished)
        yield from self._length_limit()

    def _length_limit(self) -> Iterator[Finding]:
        lengths = np.array(self.lengths)  # [rows]
        longest = np.flatnonzero(lengths == lengths.max(initial=0))
        # Data of a fixed length (few distinct lengths) was not cut.
        if len(longest) >= max(MIN_AT_LIMIT, AT_LIMIT_FRACTION * len(lengths)) and (
            len(np.unique(lengths)) > MIN_AT_LIMIT
        ):
            what = f"{len(longest)} rows have exactly {lengths.max():,} characters, and none has more: they were cut"
            fix = "export them again without a length limit"
            yield self.context.finding("cut off", "warning", what, fix, np.array(self.rows)[longest])

    @property
    def _endings_are_reliable(self) -> bool:
        return len(self.unfinished) < (1 - COMPLETE_FRACTION) * self.sentences

    @property
    def unchecked(self) -> str:
        if self.sentences and len(self.unfinished) and not self._endings_are_reliable:
            return "whether answers are cut off: too few answers end with punctuation to tell"
        return ""

    def shape(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        # With a model, `no_loss` shows token counts instead.
        return {} if self.context.codec is not None else {"characters": length_histogram(np.array(self.lengths))}


def length_histogram(lengths: NDArray[np.int64]) -> list[tuple[str, int]]:
    """(range, count) with ranges up to powers of two, from the first that is not empty."""
    if not len(lengths):
        return []
    bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)  # length 0 has no logarithm
    counts = np.bincount(bins)
    first = int(np.flatnonzero(counts)[0])
    return [(f"≤ {2**exponent:,}", int(counts[exponent])) for exponent in range(first, len(counts))]
